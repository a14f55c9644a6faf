//! Scope by use with the real control plane, real agents and real Envoys; the library explains the parts.
//! Needs root, the binaries (`make build`, or `HEDDLE_BIN_DIR`) and Envoy (`make envoy`, or `HEDDLE_ENVOY`); `make e2e` runs it.

mod becomes_known;
mod changes;
mod declared;
mod edits;
mod evicted;
mod family;
mod first;
mod inbound;
mod killed;
mod kubelet;
mod learned;
mod narrowed;
mod own_ports;
mod presence;
mod restart;
mod scan;
mod settled;
#[path = "../../../../policy-compiler/tests/harness/tls.rs"]
mod tls;
