//! Values that travel with an attempt, found by their type.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    sync::Arc,
};

/// Values by their type, at most one of each. Cheap to clone; a clone is changed without the original (copy on write).
///
/// Every attempt begins with those that the worker was given with
/// [`WorkerBuilder::extension`](crate::WorkerBuilder::extension). Middleware adds its own, for this attempt only, and
/// the handler reads them with [`Context::extension`](crate::Context::extension).
#[derive(Clone, Default)]
pub struct Extensions(Option<Arc<Values>>);

type Values = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;

impl Extensions {
    /// Keeps a value, in place of one of the same type.
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        let values = self.0.get_or_insert_default();
        Arc::make_mut(values).insert(TypeId::of::<T>(), Arc::new(value));
    }

    /// The value of this type, if there is one.
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.as_ref()?.get(&TypeId::of::<T>())?.downcast_ref()
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.0.as_ref().map_or(0, |values| values.len());
        f.debug_struct("Extensions").field("values", &values).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_is_changed_without_the_original() {
        let mut worker = Extensions::default();
        assert_eq!(worker.get::<u32>(), None);
        worker.insert(1_u32);
        let mut attempt = worker.clone();
        attempt.insert(2_u32);
        attempt.insert("more");
        assert_eq!((worker.get::<u32>(), worker.get::<&str>()), (Some(&1), None));
        assert_eq!((attempt.get::<u32>(), attempt.get::<&str>()), (Some(&2), Some(&"more")));
    }
}
