//! The end-to-end suite's vocabulary: a cluster driven by `kubectl`, as its users drive it, a namespace per test that is
//! deleted at the end, and counted load sent from inside a pod.
//!
//! The cluster is the one that `KUBECONFIG` names, with Heddle installed and its images present; `tests/e2e/run.sh` brings one up.

mod apps;
mod cluster;
mod conditions;
mod load;
mod own_ports;
mod settings;

pub use apps::{Echo, Ledger, Probe, reviews, reviews_with_ledgers};
pub use cluster::{Kubectl, Namespace, eventually};
pub use conditions::{ANCESTOR, Expected, PARENT};
pub use load::{Answer, Load, Report, assert_share, calls};
pub use own_ports::OwnPorts;
pub use settings::Settings;
