//! Measures Heddle on real parts: the control plane's own binary, agents, stock Envoys, a real Kubernetes API, real TLS
//! and gRPC over loopback.
//!
//! Deliberately absent: mock servers, and any figure that is not measured in the run that prints it.

pub mod change;
pub mod children;
pub mod cluster;
pub mod control_plane;
pub mod echo;
pub mod edges;
pub mod flat;
pub mod http;
pub mod latency;
pub mod load;
pub mod machine;
pub mod memory;
pub mod mesh;
pub mod metrics;
pub mod objects;
pub mod operator;
pub mod page;
pub mod pair;
pub mod paths;
pub mod place;
pub mod probe;
pub mod random;
pub mod sidecars;
pub mod sim;
pub mod simulate;
pub mod stats;
pub mod streams;
pub mod table;
pub mod throughput;
pub mod timer;
