//! Where a part of a measurement runs: this machine's network, or a network namespace of its own.
//!
//! A namespace is nothing but an open file here: it goes with this process, however that ends.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};

/// The network of a part.
#[derive(Debug, Clone, Default)]
pub struct Place(Option<Arc<File>>);

impl Place {
    /// This machine's own network.
    pub fn here() -> Self {
        Self(None)
    }

    /// A new, empty network namespace.
    ///
    /// # Errors
    /// Without root.
    pub fn new() -> Result<Self> {
        // Of a thread of its own: it leaves the machine's network for good.
        let made = std::thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("a network namespace needs root")?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let file = made.join().map_err(|_| anyhow!("a thread died"))??;
        Ok(Self(Some(Arc::new(file))))
    }

    /// A path by which other processes can name it; none of this machine's own network.
    pub fn path(&self) -> Option<String> {
        let fd = self.0.as_ref()?.as_raw_fd();
        Some(format!("/proc/{}/fd/{fd}", std::process::id()))
    }

    /// Runs something there: sockets that it opens and processes that it starts belong to that network.
    ///
    /// # Errors
    /// Those of the function, or when the namespace can't be entered.
    pub fn run<T: Send>(&self, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let Some(namespace) = &self.0 else {
            return what();
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET).context("a network namespace")?;
                what()
            });
            thread.join().map_err(|_| anyhow!("a thread died"))?
        })
    }

    /// Runs something asynchronous there, on a runtime of its own, and waits for it.
    ///
    /// # Errors
    /// Those of the function, or when the namespace can't be entered.
    pub async fn wait<T, F>(&self, what: impl FnOnce() -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>>,
    {
        let place = self.clone();
        tokio::task::spawn_blocking(move || {
            place.run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(what())
            })
        })
        .await?
    }
}
