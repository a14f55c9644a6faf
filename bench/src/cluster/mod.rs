//! A real Kubernetes API for the control plane to watch: etcd and kube-apiserver alone, of the binary that
//! `tests/e2e/cluster` builds.
//!
//! Deliberately absent: scheduler, controllers, kubelet. Pods and endpoints are written as those would leave them.

pub mod api;
pub mod fill;
pub mod install;
mod server;
pub mod snapshot;

pub use api::Api;
pub use server::{ApiServer, Variant};
