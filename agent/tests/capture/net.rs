//! A pod and its node as two network namespaces, and sockets in them.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage, bind, connect,
    getsockopt, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::{Uid, geteuid, setfsuid};

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// 10.77.0.2 and fd77::2 behind a node that has the gateway .1, a neighbor .9, and a destination outside (10.88.0.1, fd88::1).
pub struct Net {
    pub pod: String,
    pub node: String,
}

pub fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Net {
    pub fn new() -> Self {
        assert!(
            geteuid().is_root(),
            "capture is tested in network namespaces, which need root: run as root"
        );
        let n = format!(
            "{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::SeqCst)
        );
        let net = Self {
            pod: format!("hd-pod-{n}"),
            node: format!("hd-node-{n}"),
        };
        let (pod, node) = (&net.pod, &net.node);
        run(&format!(
            "ip netns add {pod}; ip netns add {node}
             for ns in {pod} {node}; do ip -n $ns link set lo up; ip netns exec $ns sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0; done
             ip -n {pod} link add eth0 type veth peer name n0 netns {node}
             ip -n {pod} link set eth0 up; ip -n {node} link set n0 up
             ip -n {pod} addr add 10.77.0.2/24 dev eth0; ip -n {pod} addr add fd77::2/64 dev eth0 nodad
             for last in 1 9; do ip -n {node} addr add 10.77.0.$last/24 dev n0; ip -n {node} addr add fd77::$last/64 dev n0 nodad; done
             ip -n {node} addr add 10.88.0.1/32 dev lo; ip -n {node} addr add fd88::1/128 dev lo nodad
             ip -n {pod} route add default via 10.77.0.1; ip -n {pod} -6 route add default via fd77::1"
        ));
        net
    }

    /// `heddle-agent init` in the pod, with these settings.
    pub fn init(&self, environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &self.pod,
            env!("CARGO_BIN_EXE_heddle-agent"),
            "init",
        ]);
        command
            .env_remove("HEDDLE_LOG_LEVEL")
            .envs(environment.iter().copied())
            .output()
            .unwrap()
    }

    pub fn capture(&self, environment: &[(&str, &str)]) {
        let output = self.init(environment);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for ns in [&self.pod, &self.node] {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

/// Runs on a thread of its own, for namespace and user are the thread's.
pub fn inside<T: Send>(ns: &str, what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = std::fs::File::open(format!("/run/netns/{ns}")).unwrap();
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            what()
        });
        thread.join().unwrap()
    })
}

/// Answers each caller with the listener that took the connection, and with its destination.
pub fn listen(ns: &str, name: &str, at: SocketAddr) {
    let listener = inside(ns, || {
        let family = if at.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&fd, sockopt::ReuseAddr, &true).unwrap();
        if at.is_ipv6() {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true).unwrap();
        }
        bind(fd.as_raw_fd(), &SockaddrStorage::from(at)).unwrap();
        nix::sys::socket::listen(&fd, nix::sys::socket::Backlog::new(64).unwrap()).unwrap();
        TcpListener::from(fd)
    });
    let name = name.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let wanted = original(&stream).map_or_else(|| "-".to_owned(), |a| a.to_string());
            let peer = stream.peer_addr().unwrap().ip();
            let _ = writeln!(stream, "{name} {wanted} {peer}");
        }
    });
}

fn original(stream: &TcpStream) -> Option<SocketAddr> {
    if stream.local_addr().unwrap().is_ipv4() {
        let found = getsockopt(stream, sockopt::OriginalDst).ok()?;
        let found = SockaddrIn::from(found);
        Some((found.ip(), found.port()).into())
    } else {
        let found = getsockopt(stream, sockopt::Ip6tOriginalDst).ok()?;
        let found = SockaddrIn6::from(found);
        Some((found.ip(), found.port()).into())
    }
}

/// The caller, and its way of calling.
#[derive(Clone, Copy, Default)]
pub struct Call<'a> {
    pub from: Option<&'a str>,
    pub uid: u32,
    pub mark: bool,
}

/// The answer: `listener wanted-destination seen-source`, or the error.
pub fn call(ns: &str, how: Call<'_>, to: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let from: Option<IpAddr> = how.from.map(|ip| ip.parse().unwrap());
    inside(ns, move || {
        setfsuid(Uid::from_raw(how.uid));
        let family = if to.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(3, 0)).unwrap();
        if how.mark {
            if to.is_ipv4() {
                setsockopt(&fd, sockopt::Ipv4Tos, &0x9c).unwrap();
            } else {
                setsockopt(&fd, sockopt::Ipv6TClass, &0x9c).unwrap();
            }
        }
        if let Some(from) = from {
            bind(
                fd.as_raw_fd(),
                &SockaddrStorage::from(SocketAddr::from((from, 0))),
            )
            .unwrap();
        }
        if let Err(error) = connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
            return error.to_string();
        }
        let stream = TcpStream::from(fd);
        stream
            .set_read_timeout(Some(Duration::from_secs(3)))
            .unwrap();
        let mut line = String::new();
        BufReader::new(stream)
            .read_line(&mut line)
            .map_or_else(|e| e.to_string(), |_| line.trim().to_owned())
    })
}
