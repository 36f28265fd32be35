//! One behaviour, both stores, at the owner of the cell and through a relay.

/// Runs each behaviour, a function of where its jobs are kept and of whom its clients know, as one test for each.
macro_rules! on_both_stores {
    ($($behaviour:ident),* $(,)?) => {
        crate::both::on!(memory, Memory, $($behaviour),*);
        crate::both::on!(postgres, Postgres, $($behaviour),*);
        crate::both::on!(relayed_memory, RelayedMemory, $($behaviour),*);
        crate::both::on!(relayed_postgres, RelayedPostgres, $($behaviour),*);
    };
}

/// Runs each behaviour as one test, in a module of this name.
macro_rules! on {
    ($place:ident, $on:ident, $($behaviour:ident),*) => {
        mod $place {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(crate::scene::On::$on).await;
            })*
        }
    };
}

pub(crate) use {on, on_both_stores};
