//! One behaviour, both stores.

/// Runs each behaviour, a function of a fresh cell, as one test per store.
macro_rules! on_both_stores {
    ($($behaviour:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(crate::cell::TestCell::in_memory()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(crate::cell::TestCell::in_postgres().await).await;
            })*
        }
    };
}

pub(crate) use on_both_stores;
