//! A node and its pods as network namespaces.
//!
//! The node has a bridge with the pods' default gateway. The addresses of applications without a sidecar, of services and of
//! everything unknown are local to the node, so that a connection that gets that far is answered or refused, and never hangs.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Pid, geteuid};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::process::sh;

/// The node's address, where the control plane is.
pub(crate) const GATEWAY: &str = "10.244.0.1";

/// The same by IPv6.
const GATEWAY_V6: &str = "fd00:244::1";

/// The address that its own connections come from, which no pod takes for its node.
const OUTSIDE: &str = "10.244.0.2";

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A network namespace, deleted when dropped.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    fn new() -> Result<Self> {
        ensure!(
            geteuid().is_root(),
            "network namespaces need root: run as root"
        );
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let netns = Self {
            name: format!("hs{}-{number}", std::process::id()),
        };
        let name = &netns.name;
        sh(&format!(
            "ip netns add {name}; ip -n {name} link set lo up
             ip netns exec {name} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0"
        ))?;
        Ok(netns)
    }

    /// A command that will run in it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// A socket that belongs to it, for every user of the socket.
    fn socket(&self, to: IpAddr) -> Result<TcpSocket> {
        // On a thread of its own, for the namespace is the thread's.
        let open = || -> Result<TcpSocket> {
            let namespace = std::fs::File::open(format!("/run/netns/{}", self.name))?;
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            let socket = match to {
                IpAddr::V4(_) => TcpSocket::new_v4(),
                IpAddr::V6(_) => TcpSocket::new_v6(),
            };
            Ok(socket?)
        };
        std::thread::scope(|scope| scope.spawn(open).join())
            .map_err(|_| anyhow!("no socket in {}", self.name))?
    }

    /// A connection made in it, from the node's own address if need be.
    pub(crate) async fn connect(&self, to: SocketAddr, from_node: bool) -> Result<TcpStream> {
        let socket = self.socket(to.ip())?;
        if from_node {
            let own = if to.is_ipv4() { GATEWAY } else { GATEWAY_V6 };
            socket.bind(SocketAddr::new(own.parse()?, 0))?;
        }
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A server in it. The unspecified IPv6 address is that of IPv4 too.
    pub(crate) fn listen(&self, at: SocketAddr) -> Result<TcpListener> {
        let socket = self.socket(at.ip())?;
        socket.set_reuseaddr(true)?;
        socket.bind(at).with_context(|| format!("{at}"))?;
        Ok(socket.listen(1024)?)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = sh(&format!("ip netns del {}", self.name));
    }
}

/// The node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) netns: Arc<Netns>,
    wires: AtomicUsize,
}

impl Node {
    pub(crate) fn new() -> Result<Self> {
        sweep()?;
        let netns = Netns::new()?;
        let node = &netns.name;
        sh(&format!(
            "ip netns exec {node} sh -c 'sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0 || true' 2>/dev/null
             ip netns exec {node} sysctl -qw net.ipv6.ip_nonlocal_bind=1
             ip -n {node} link add br0 type bridge; ip -n {node} link set br0 up
             ip -n {node} addr add {OUTSIDE}/24 dev br0; ip -n {node} addr add {GATEWAY}/24 dev br0
             ip -n {node} addr add fd00:244::2/64 dev br0 nodad; ip -n {node} addr add fd00:244::1/64 dev br0 nodad preferred_lft 0
             for net in 10.96.0.0/16 10.200.0.0/16 10.244.1.0/24; do ip -n {node} route add local $net dev lo; done
             for net in fd00:96::/64 fd00:200::/64 fd00:244:1::/64; do ip -n {node} route add local $net dev lo; done"
        ))?;
        Ok(Self {
            netns: Arc::new(netns),
            wires: AtomicUsize::new(0),
        })
    }

    /// The network of a pod with these addresses.
    pub(crate) fn attach(&self, ips: &[IpAddr]) -> Result<Wire> {
        let number = self.wires.fetch_add(1, Ordering::SeqCst);
        let wire = Wire {
            netns: Arc::new(Netns::new()?),
            node: Arc::clone(&self.netns),
            end: format!("pod{number}"),
        };
        let (node, pod, end) = (&self.netns.name, &wire.netns.name, &wire.end);
        sh(&format!(
            "ip -n {node} link add {end} type veth peer name eth0 netns {pod}
             ip -n {node} link set {end} master br0 up; ip -n {pod} link set eth0 up"
        ))?;
        for ip in ips {
            let length = if ip.is_ipv4() { "24" } else { "64 nodad" };
            sh(&format!("ip -n {pod} addr add {ip}/{length} dev eth0"))?;
        }
        sh(&format!(
            "ip -n {pod} route add default via {GATEWAY}; ip -n {pod} -6 route add default via fd00:244::1"
        ))?;
        Ok(wire)
    }
}

/// A pod's network and its wire to the node, which is cut when dropped: sockets left open would keep the namespace alive.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) netns: Arc<Netns>,
    node: Arc<Netns>,
    end: String,
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = sh(&format!("ip -n {} link del {}", self.node.name, self.end));
    }
}

/// Deletes the remains of tests that were killed.
fn sweep() -> Result<()> {
    for name in sh("ip -o netns list")?.lines() {
        let name = name.split(' ').next().unwrap_or_default();
        let owner = name
            .strip_prefix("hs")
            .and_then(|rest| rest.split_once('-')?.0.parse().ok());
        let gone = |pid| nix::sys::signal::kill(Pid::from_raw(pid), None).is_err();
        if owner.is_some_and(gone) {
            let _ = sh(&format!("ip netns del {name}"));
        }
    }
    Ok(())
}
