//! A pod and everything else, as two network namespaces: in the second every address of 10/8 is local, so that one
//! process answers for all pods.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::place::Place;

/// The pod's address.
pub const POD_IP: &str = "192.168.77.2";
/// That of everything else.
pub const OUTSIDE_IP: &str = "192.168.77.1";

/// The two networks.
#[derive(Debug)]
pub struct Networks {
    /// The pod's.
    pub pod: Place,
    /// Where the control plane and all other pods are.
    pub outside: Place,
}

impl Networks {
    /// Makes and connects them.
    ///
    /// # Errors
    /// Without root, or without iproute2.
    pub fn new() -> Result<Self> {
        let (pod, outside) = (Place::new()?, Place::new()?);
        let other = outside.path().context("a namespace has a path")?;
        pod.run(|| {
            script(&format!(
                "ip link set lo up
                 ip link add eth0 type veth peer name n0 netns {other}
                 ip link set eth0 up
                 ip addr add {POD_IP}/24 dev eth0"
            ))
        })?;
        outside.run(|| {
            script(&format!(
                "ip link set lo up
                 ip link set n0 up
                 ip addr add {OUTSIDE_IP}/24 dev n0
                 ip route add local 10.0.0.0/8 dev lo"
            ))
        })?;
        // A gateway is there only now that the other end is up.
        pod.run(|| script(&format!("ip route add default via {OUTSIDE_IP}")))?;
        Ok(Self { pod, outside })
    }
}

fn script(text: &str) -> Result<()> {
    let done = Command::new("sh").args(["-ec", text]).output()?;
    if !done.status.success() {
        bail!("{text}\n{}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}
