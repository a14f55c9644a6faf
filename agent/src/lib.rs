//! PID 1 of the sidecar: the workload's key and certificate, SDS for Envoy, Envoy's life, readiness, metrics, traffic capture, reports on traffic, taps, the end of the application.
//!
//! Deliberately absent: policies, and any key on a disk.

mod admin;
mod backoff;
mod bootstrap;
pub mod capture;
mod control_plane;
mod dir;
mod drain;
mod edges;
mod envoy;
mod issuance;
mod life;
mod memory;
mod metrics;
mod readiness;
mod release;
mod sds;
mod secrets;
mod settings;
mod socket;
mod tap;

pub use bootstrap::{Sockets, bootstrap};
pub use envoy::exec as exec_envoy;
pub use life::run;
pub use settings::{LogFormat, Settings, SettingsError, log_level};
