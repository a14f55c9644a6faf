//! Scope by use, end to end and without Kubernetes: the real control plane over a directory of YAML, real agents with the
//! capture of their own, real stock Envoys; every meshed pod in a network namespace that the test makes. Needs root.
//!
//! - [`Mesh`]: the control plane, the objects it reads ([`World`]), and the node that all pods hang on;
//! - [`Pod`]: a meshed pod with its agent, its [`Envoy`] and an application; [`Plain`]: an application without a sidecar;
//! - [`Client`]: calls as an application of a pod makes them;
//! - [`Load`]: calls that never stop, every answer of which is checked.
//!
//! The binaries are those beside the test's own (`make build`) or in `HEDDLE_BIN_DIR`; Envoy is `HEDDLE_ENVOY` or that of `make envoy`.

mod apps;
mod client;
mod envoy;
mod load;
mod mesh;
mod net;
mod pod;
mod process;
mod random;
mod world;

pub use client::{Answer, Client, Http, Refused, exchange};
pub use envoy::{Configuration, Envoy};
pub use load::{Load, Tally};
pub use mesh::{Mesh, scope};
pub use pod::{Plain, Pod};
pub use random::Random;
pub use world::{PodSpec, Service, World, port};

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything may take. Nothing is judged by it: a test that gets here fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until there is something to see; returns how long that took.
///
/// # Errors
/// When it takes longer than [`PATIENCE`]; with the last thing that `look` had to say.
pub async fn eventually<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T>,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        match look().await {
            Ok(found) => return Ok((found, start.elapsed())),
            Err(error) if start.elapsed() > PATIENCE => bail!("never: {what}: {error:#}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
