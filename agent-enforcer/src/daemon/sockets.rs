//! The daemon's own sockets: commands of root, answers of approvers.
//!
//! In: the runtime directory. Out: both sockets bound at the start, so that a second daemon fails
//! early, and served once there is something to say.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    api::{ApiError, Audience, Listener, approvals_path, socket_path},
    control::Control,
};

/// Bound, and not served yet.
pub(super) struct Sockets {
    listeners: [Listener; 2],
    paths: [PathBuf; 2],
}

/// Served until [`Self::end`].
pub(super) struct Served {
    stop: watch::Sender<()>,
    servers: [JoinHandle<Result<(), ApiError>>; 2],
}

impl Sockets {
    pub(super) fn bind(runtime_dir: &Path) -> Result<Self, ApiError> {
        let paths = [socket_path(runtime_dir), approvals_path(runtime_dir)];
        let [control, approvals] = &paths;
        let listeners = [
            Listener::bind(control, Audience::Root)?,
            Listener::bind(approvals, Audience::Approvers)?,
        ];
        Ok(Self { listeners, paths })
    }

    /// Where they are.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.paths.to_vec()
    }

    pub(super) fn serve(self, control: &Arc<dyn Control>) -> Served {
        let (stop, stopped) = watch::channel(());
        let servers = self.listeners.map(|listener| {
            let mut stopped = stopped.clone();
            tokio::spawn(listener.serve(Arc::clone(control), async move {
                // Its sender is only ever dropped.
                let _ = stopped.changed().await;
            }))
        });
        Served { stop, servers }
    }
}

impl Served {
    /// Ends open commands, and waits for that.
    pub(super) async fn end(self) -> Result<()> {
        let Self { stop, servers } = self;
        drop(stop);
        for server in servers {
            if let Err(error) = server.await? {
                tracing::warn!(%error, "a socket of the daemon did not end cleanly");
            }
        }
        Ok(())
    }
}
