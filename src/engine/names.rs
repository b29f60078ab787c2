//! Which container has which name. Names are engine-wide; taking one is atomic.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::EngineError;
use super::container::ContainerId;

/// The registry of container names.
#[derive(Default)]
pub struct Names {
    by_name: Mutex<HashMap<String, ContainerId>>,
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, ContainerId>> {
        // Each access is one or two map operations that cannot panic between them.
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name, or tells who has it.
    pub fn take(&self, name: &str, id: &ContainerId) -> Result<(), EngineError> {
        let mut by_name = self.lock();
        match by_name.get(name) {
            Some(holder) if holder != id => Err(EngineError::NameTaken {
                name: name.to_owned(),
                holder: holder.short().to_owned(),
            }),
            _ => {
                by_name.insert(name.to_owned(), id.clone());
                Ok(())
            }
        }
    }

    /// Gives the name back if it is still this container's.
    pub fn release(&self, name: &str, id: &ContainerId) {
        let mut by_name = self.lock();
        if by_name.get(name) == Some(id) {
            by_name.remove(name);
        }
    }

    pub fn find(&self, name: &str) -> Option<ContainerId> {
        self.lock().get(name).cloned()
    }
}
