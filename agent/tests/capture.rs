//! Capture in real network namespaces, a pod's and its node's: which port a connection lands on, and with which original destination.
//! Needs root, iproute2, util-linux and socat; `make e2e` runs it.
#![allow(missing_docs)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "capture/init.rs"]
mod init;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use heddle_agent::capture::{CaptureSettings, apply};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{getsockopt, sockopt};

const PORTS: [u16; 8] = [15001, 15002, 15006, 15007, 15021, 3306, 8080, 9999];

fn sh(script: &str) -> String {
    let output = Command::new("bash")
        .args(["-euc", script])
        .output()
        .expect("bash runs");
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn original_destination(stream: &TcpStream) -> SocketAddr {
    if stream.local_addr().expect("a local address").is_ipv4() {
        let address = getsockopt(stream, sockopt::OriginalDst).expect("an original destination");
        SocketAddr::from((
            u32::from_be(address.sin_addr.s_addr).to_be_bytes(),
            u16::from_be(address.sin_port),
        ))
    } else {
        let address =
            getsockopt(stream, sockopt::Ip6tOriginalDst).expect("an original destination");
        SocketAddr::from((
            Ipv6Addr::from(address.sin6_addr.s6_addr),
            u16::from_be(address.sin6_port),
        ))
    }
}

/// Answers each connection with the port it landed on and where it was going.
fn listen(at: IpAddr, port: u16) {
    let options = if at.is_ipv4() { "0.0.0.0" } else { "::" };
    let listener = if at.is_ipv4() {
        TcpListener::bind((options, port)).expect("a free port")
    } else {
        v6_only(port)
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = writeln!(stream, "{port} {}", original_destination(&stream));
        }
    });
}

fn v6_only(port: u16) -> TcpListener {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, bind, listen, setsockopt, socket,
    };
    use std::os::fd::AsRawFd;
    let fd = socket(
        AddressFamily::Inet6,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .expect("a socket");
    setsockopt(&fd, sockopt::Ipv6V6Only, &true).expect("IPv6 only");
    let address: SockaddrIn6 =
        std::net::SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into();
    bind(fd.as_raw_fd(), &address).expect("a free port");
    listen(&fd, Backlog::new(16).expect("a small backlog")).expect("listening");
    fd.into()
}

/// The answer to a connection from user `uid`; `options` are socat's.
fn connect(uid: u32, to: &str, options: &str) -> String {
    sh(&format!(
        "setpriv --reuid={uid} --clear-groups timeout 5 socat -u TCP:{to},connect-timeout=3{options} -"
    ))
}

/// The pod's half: its end of the wire, the servers, the rules.
fn pod() {
    sh(
        "ip link set lo up; ip link add pod0 type veth peer name node0; ip link set pod0 up; ip addr add 10.77.0.2/24 dev pod0; \
        ip -6 addr add fd77::2/64 dev pod0 nodad; ip route add default via 10.77.0.1 dev pod0; ip -6 route add default via fd77::1 dev pod0",
    );
    for port in PORTS {
        listen(IpAddr::from([0, 0, 0, 0]), port);
        listen(IpAddr::from([0; 16]), port);
    }
    let environment = BTreeMap::from([
        ("HEDDLE_HOST_IPS", "10.77.0.9"),
        ("HEDDLE_TCP_PROBE_PORTS", "3306"),
        ("HEDDLE_EXCLUDE_INBOUND_PORTS", "9999"),
        ("HEDDLE_EXCLUDE_OUTBOUND_PORTS", "9999"),
        ("HEDDLE_EXCLUDE_OUTBOUND_CIDRS", "10.77.0.2/32"),
    ]);
    let settings =
        CaptureSettings::read(|name| environment.get(name).map(|value| (*value).to_owned()))
            .expect("the settings");
    // The second run replaces the rules of the first.
    for _ in 0..2 {
        apply(&settings).expect("the rules");
    }
}

#[test]
fn connections_land_where_they_should() {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (link, is_linked) = std::sync::mpsc::channel::<()>();
    let (finish, finished) = std::sync::mpsc::channel::<()>();
    let (leave, may_leave) = std::sync::mpsc::channel::<()>();
    let pod = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: this test needs root");
        self::pod();
        ready.send(nix::unistd::gettid()).expect("the test waits");
        // While the other end of the link moves, the pod has no network.
        is_linked.recv().expect("the node's half");

        let outbound = [
            // An application's connection, by either family, keeps its destination.
            (1000, "10.96.0.12:80", "", "15001 10.96.0.12:80"),
            (1000, "[fd96::12]:80", "", "15001 [fd96::12]:80"),
            // The mark of a first connection goes before the exclusion of the sidecar's own user.
            (1337, "10.96.0.12:80", ",tos=156", "15002 10.96.0.12:80"),
            (
                1337,
                "[fd96::12]:80",
                ",ipv6-tclass=156",
                "15002 [fd96::12]:80",
            ),
            // The sidecar to its own pod: the inbound side; to the application as the application's client: straight.
            (1337, "10.77.0.2:8080", "", "15006 10.77.0.2:8080"),
            (
                1337,
                "10.77.0.2:8080",
                ",bind=127.0.0.6",
                "8080 10.77.0.2:8080",
            ),
            (1337, "[fd77::2]:8080", ",bind=[::6]", "8080 [fd77::2]:8080"),
            // Connections to loopback and to excluded destinations stay as they are.
            (1000, "127.0.0.1:8080", "", "8080 127.0.0.1:8080"),
            (1000, "10.77.0.2:8080", "", "8080 10.77.0.2:8080"),
        ];
        for (uid, to, options, expected) in outbound {
            // A connection that no rule touched has no original destination but its own.
            assert_eq!(
                connect(uid, to, options),
                expected,
                "uid {uid} to {to} {options}"
            );
        }
        finished.recv().expect("the node's half");
        leave.send(()).expect("the node's half waits");
    });

    let tid = is_ready.recv().expect("the pod's namespace");
    let node = std::thread::spawn(move || {
        let target = format!("/proc/{}/task/{tid}/ns/net", std::process::id());
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: this test needs root");
        let own = format!(
            "/proc/{}/task/{}/ns/net",
            std::process::id(),
            nix::unistd::gettid()
        );
        sh(&format!(
            "nsenter --net={target} ip link set node0 netns {own}; ip link set lo up; ip link set node0 up; \
             for a in 1 9 5; do ip addr add 10.77.0.$a/24 dev node0; ip -6 addr add fd77::$a/64 dev node0 nodad; done"
        ));
        link.send(()).expect("the pod's half waits");
        let inbound = [
            ("10.77.0.5", "10.77.0.2:8080", "15006 10.77.0.2:8080"),
            ("[fd77::5]", "[fd77::2]:8080", "15006 [fd77::2]:8080"),
            ("10.77.0.5", "10.77.0.2:15021", "15021 10.77.0.2:15021"),
            ("10.77.0.5", "10.77.0.2:9999", "9999 10.77.0.2:9999"),
            // The node: by its address, by the default gateway, also at a port with a TCP probe.
            ("10.77.0.9", "10.77.0.2:8080", "15007 10.77.0.2:8080"),
            ("10.77.0.1", "10.77.0.2:8080", "15007 10.77.0.2:8080"),
            ("[fd77::1]", "[fd77::2]:8080", "15007 [fd77::2]:8080"),
            ("10.77.0.9", "10.77.0.2:3306", "15007 10.77.0.2:3306"),
            ("10.77.0.5", "10.77.0.2:3306", "15006 10.77.0.2:3306"),
        ];
        for (from, to, expected) in inbound {
            assert_eq!(
                connect(0, to, &format!(",bind={from}")),
                expected,
                "{from} to {to}"
            );
        }
        finish.send(()).expect("the pod's half waits");
        // With this thread its namespace ends, and with that the pod's link.
        may_leave.recv().expect("the pod's half");
    });
    node.join().expect("inbound");
    pod.join().expect("outbound");
}
