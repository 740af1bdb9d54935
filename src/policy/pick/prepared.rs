//! `Prepared`: what a policy derives from a set of endpoints.

use std::{any::Any, fmt, sync::Arc};

/// Data that a policy has computed for a set of endpoints, of a type that only the policy knows. Cheap to clone. By
/// default there is none.
#[derive(Clone, Default)]
pub struct Prepared(Option<Arc<dyn Any + Send + Sync>>);

impl Prepared {
    /// Wraps a value.
    pub fn new<T: Send + Sync + 'static>(value: T) -> Self {
        Self(Some(Arc::new(value)))
    }

    /// Returns the value, if there is one of this type.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.0.as_ref()?.downcast_ref()
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("is_some", &self.0.is_some()).finish()
    }
}
