//! Traffic capture: sends the pod's TCP connections to the sidecar, by nftables rules made over netlink, so that the sidecar image needs
//! neither `nft` nor `iptables`. One table of ours, replaced as a whole in one transaction; nothing else is touched.
//!
//! UDP is not captured.

mod expression;
mod netlink;
mod node;
mod rule;
mod rules;
mod settings;

pub use netlink::CaptureError;
pub use rule::{Chain, Rule, Verdict};
pub use rules::plan;
pub use settings::{CaptureSettings, SettingsError};

/// Puts the rules in force, replacing those of an earlier run.
///
/// # Errors
/// The kernel's refusal, naming the step: without `NET_ADMIN`, or without nftables NAT.
pub fn apply(settings: &CaptureSettings) -> Result<(), CaptureError> {
    let mut settings = settings.clone();
    settings.node_addresses.extend(node::default_gateways());
    netlink::add_ipv6_source()?;
    let refused = match netlink::replace_table(&plan(&settings)) {
        Err(refused) if refused.is_unsupported() => refused,
        done => return done,
    };
    // Closed rather than truthful: nothing from the node goes past the sidecar.
    settings.tcp_probe_ports.clear();
    let mut rules = plan(&settings);
    if netlink::replace_table(&rules).is_err() {
        // Connections to capture ports are closed by the listeners then.
        rules.retain(|rule| rule.verdict != Verdict::Reject);
        netlink::replace_table(&rules)?;
    }
    tracing::warn!(
        %refused,
        "the kernel lacks nft_socket or nft_reject: TCP probes test the sidecar, not the application's port"
    );
    Ok(())
}
