//! The view that the validation of objects has of a world, and its results.
//!
//! Shared by the kinds and the compile: the owners of addresses, the endpoints of services, a view that records the services it was asked for,
//! and the statuses and findings of a unit.

pub(crate) mod addresses;
pub(crate) mod endpoints;
pub(crate) mod facet;
pub(crate) mod lookup;
pub(crate) mod outcome;

pub(crate) use addresses::Addresses;
pub(crate) use lookup::Lookup;
pub(crate) use outcome::Outcome;
