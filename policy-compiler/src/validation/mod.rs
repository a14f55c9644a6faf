//! The view that the validation of objects has of a world, and its results.
//!
//! Shared by the kinds and the compile: the owners of addresses, the endpoints of services, a recorder of the inputs that a unit reads,
//! and the statuses and findings of a unit.

pub(crate) mod addresses;
pub(crate) mod endpoints;
pub(crate) mod facet;
pub(crate) mod inputs;
pub(crate) mod recorder;
pub(crate) mod report;

pub(crate) use addresses::Addresses;
pub(crate) use recorder::Recorder;
pub(crate) use report::ValidationReport;
