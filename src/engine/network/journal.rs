//! Records on their way to disk: callers that wait at the same time share one commit.

use std::sync::{Arc, Mutex, PoisonError};

use super::error::NetworkError;
use crate::engine::network::record::EndpointRecord;
use crate::engine::store::{Batch, Store, StoreError, Table};

type Answer = tokio::sync::oneshot::Sender<Result<(), Arc<StoreError>>>;

struct Entry {
    container: String,
    /// `None` removes it.
    record: Option<EndpointRecord>,
    answer: Answer,
}

/// Writes endpoint records, many to a commit.
pub struct Journal {
    store: Store,
    pending: Arc<Mutex<Vec<Entry>>>,
    committing: Arc<tokio::sync::Mutex<()>>,
}

impl Journal {
    pub fn new(store: Store) -> Journal {
        Journal {
            store,
            pending: Arc::default(),
            committing: Arc::default(),
        }
    }

    /// Returns when the record is durable.
    pub async fn write(
        &self,
        container: &str,
        record: Option<EndpointRecord>,
    ) -> Result<(), NetworkError> {
        let (answer, mut waiting) = tokio::sync::oneshot::channel();
        self.pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Entry {
                container: container.to_owned(),
                record,
                answer,
            });
        let turn = self.committing.clone().lock_owned().await;
        if let Ok(outcome) = waiting.try_recv() {
            return outcome.map_err(shared);
        }
        let (store, pending) = (self.store.clone(), self.pending.clone());
        let committed = tokio::task::spawn_blocking(move || {
            // Held by the work, not by its waiter, so that a cancelled caller does not let the
            // next commit overtake this one.
            let _turn = turn;
            let entries =
                std::mem::take(&mut *pending.lock().unwrap_or_else(PoisonError::into_inner));
            let mut batch = Batch::default();
            for entry in &entries {
                match &entry.record {
                    Some(record) => batch.put(Table::Endpoints, &entry.container, record),
                    None => batch.remove(Table::Endpoints, &entry.container),
                }
            }
            let outcome = store.commit(batch).map_err(Arc::new);
            for entry in entries {
                // A caller that was cancelled does not listen.
                let _unheard = entry.answer.send(outcome.clone());
            }
        });
        let cut_off = || NetworkError::CutOff {
            container: container.to_owned(),
        };
        committed.await.map_err(|_panicked| cut_off())?;
        waiting.await.map_err(|_dropped| cut_off())?.map_err(shared)
    }
}

fn shared(error: Arc<StoreError>) -> NetworkError {
    NetworkError::Commit(error)
}
