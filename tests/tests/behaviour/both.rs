//! One behaviour, both stores.

/// Runs each behaviour, a function of where its jobs are kept, as one test per store.
macro_rules! on_both_stores {
    ($($behaviour:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(crate::scene::On::Memory).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(crate::scene::On::Postgres).await;
            })*
        }
    };
}

pub(crate) use on_both_stores;
