//! The end of a pod: the exchange of its agent with the control plane, and the receipts of the control plane.
//!
//! A terminating pod is withdrawn when the configuration of no caller has its endpoints any more, and each caller has
//! acknowledged that.

mod receipts;
mod wire;

pub use receipts::{Receipt, ReceiptsReport, VERSION};
pub use wire::{EndReport, ReleaseReason, WithdrawalReport};

/// The gRPC method of an agent: [`EndReport`]s in, [`WithdrawalReport`]s out. It is served beside ADS.
pub const METHOD: &str = "/heddle.rollout.v1.Rollout/End";

/// The path of the hook that the kubelet calls before it signals a container, on the port of readiness.
pub const HOOK_PATH: &str = "/hooks/pre-stop";
