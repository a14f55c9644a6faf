//! The types of the API, one file per kind. The list is written by `cargo xtask gen`.

mod auth_policy;
mod external_service;
mod mesh;
mod telemetry;
mod traffic_policy;
mod traffic_split;

pub use auth_policy::*;
pub use external_service::*;
pub use mesh::*;
pub use telemetry::*;
pub use traffic_policy::*;
pub use traffic_split::*;
