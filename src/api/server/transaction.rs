//! One command at a time on one project (HAZARDS L21).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use crate::compose::ProjectName;

/// The projects that commands run on, or wait for.
#[derive(Default)]
pub(super) struct Transactions {
    projects: Arc<Mutex<HashMap<ProjectName, Arc<Entry>>>>,
}

#[derive(Default)]
struct Entry {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The verb that has its turn, and the way to end it.
    current: Mutex<Option<(&'static str, CancellationToken)>>,
}

/// The right to change one project; the next command's turn comes when it is dropped.
pub(super) struct Turn {
    // Declared first, so dropped first: whoever comes next must not find this verb as current.
    _current: CurrentGuard,
    _turn: OwnedMutexGuard<()>,
    /// Cancelled when a user gives this command up.
    pub cancelled: CancellationToken,
}

struct CurrentGuard {
    projects: Arc<Mutex<HashMap<ProjectName, Arc<Entry>>>>,
    name: ProjectName,
    entry: Arc<Entry>,
}

impl Drop for CurrentGuard {
    fn drop(&mut self) {
        *lock(&self.entry.current) = None;
        let mut projects = lock(&self.projects);
        // The map and this guard hold one each; a third is somebody who waits.
        if Arc::strong_count(&self.entry) <= 2 {
            projects.remove(&self.name);
        }
    }
}

/// A panic while one of these locks was held leaves plain data that is still whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Transactions {
    /// Waits for this project's turn; `on_wait` is told first, with the verb that is in the way.
    pub async fn begin(
        &self,
        name: &ProjectName,
        verb: &'static str,
        on_wait: impl FnOnce(&'static str),
    ) -> Turn {
        let entry = lock(&self.projects)
            .entry(name.clone())
            .or_default()
            .clone();
        let turn = match entry.turn.clone().try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => {
                let current = lock(&entry.current).as_ref().map(|(verb, _)| *verb);
                on_wait(current.unwrap_or("command"));
                entry.turn.clone().lock_owned().await
            }
        };
        let cancelled = CancellationToken::new();
        *lock(&entry.current) = Some((verb, cancelled.clone()));
        Turn {
            _current: CurrentGuard {
                projects: self.projects.clone(),
                name: name.clone(),
                entry,
            },
            _turn: turn,
            cancelled,
        }
    }

    /// Whether no command runs on any project, and none waits.
    pub fn is_empty(&self) -> bool {
        lock(&self.projects).is_empty()
    }

    /// Ends the command that has its turn on this project; false if there is none.
    pub fn cancel(&self, name: &ProjectName) -> bool {
        let entry = lock(&self.projects).get(name).cloned();
        entry.is_some_and(|entry| match &*lock(&entry.current) {
            Some((_, token)) => {
                token.cancel();
                true
            }
            None => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_and_is_told_whom_for() {
        let transactions = Arc::new(Transactions::default());
        let name = ProjectName::new("demo").unwrap();
        let first = transactions
            .begin(&name, "up", |_| panic!("nobody is there"))
            .await;

        let (told, heard) = tokio::sync::oneshot::channel();
        let second = tokio::spawn({
            let (transactions, name) = (transactions.clone(), name.clone());
            async move {
                let turn = transactions
                    .begin(&name, "down", |verb| told.send(verb).unwrap())
                    .await;
                drop(turn);
            }
        });
        assert_eq!(heard.await.unwrap(), "up");
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap();
        assert!(lock(&transactions.projects).is_empty(), "nothing is kept");
        assert!(!transactions.cancel(&name));
    }

    #[tokio::test]
    async fn another_project_does_not_wait() {
        let transactions = Transactions::default();
        let one = ProjectName::new("one").unwrap();
        let two = ProjectName::new("two").unwrap();
        let _one = transactions.begin(&one, "up", |_| panic!("waits")).await;
        let turn = transactions.begin(&two, "up", |_| panic!("waits")).await;
        assert!(transactions.cancel(&two));
        assert!(turn.cancelled.is_cancelled());
    }
}
