//! Measures Heddle on real parts: the control plane's own binary, agents, stock Envoys, real TLS and gRPC over loopback.
//!
//! Deliberately absent: mock servers, and any figure that is not measured in the run that prints it.

pub mod change;
pub mod children;
pub mod control_plane;
pub mod echo;
pub mod latency;
pub mod load;
pub mod machine;
pub mod memory;
pub mod pair;
pub mod paths;
pub mod propagation;
pub mod report;
pub mod sidecars;
pub mod sim;
pub mod simulate;
pub mod stats;
pub mod timer;
pub mod world;
