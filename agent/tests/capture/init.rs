//! `heddle-agent init` with real connections in network namespaces: which port takes them, and the facts it learns of them.

#[path = "net.rs"]
mod net;

use std::process::Command;

use self::net::{Call, Net, call, inside, listen, run};

const PROXY: u32 = 1337;
const SIDECAR: [u16; 4] = [15001, 15002, 15006, 15007];
const APP: [u16; 4] = [8080, 9090, 7000, 15021];
const ENVIRONMENT: [(&str, &str); 4] = [
    ("HEDDLE_TCP_PROBE_PORTS", "9090"),
    ("HEDDLE_EXCLUDE_INBOUND_PORTS", "7000"),
    ("HEDDLE_EXCLUDE_OUTBOUND_PORTS", "5432"),
    ("HEDDLE_EXCLUDE_OUTBOUND_CIDRS", "10.99.0.0/16,fd99::/16"),
];

/// A pod with its sidecar's ports, an application, and something outside.
fn world() -> Net {
    let net = Net::new();
    for any in ["0.0.0.0", "[::]"] {
        for port in SIDECAR {
            listen(
                &net.pod,
                &port.to_string(),
                format!("{any}:{port}").parse().unwrap(),
            );
        }
        for port in APP {
            listen(&net.pod, "app", format!("{any}:{port}").parse().unwrap());
        }
        for port in [80, 5432, 8080] {
            listen(
                &net.node,
                "outside",
                format!("{any}:{port}").parse().unwrap(),
            );
        }
    }
    run(&format!(
        "ip -n {0} addr add 10.99.0.1/32 dev lo; ip -n {0} addr add fd99::1/128 dev lo nodad",
        net.node
    ));
    net
}

#[track_caller]
fn expect(ns: &str, how: Call<'_>, to: &str, want: &str) {
    let got = call(ns, how, to);
    let (want_from, got_from) = (
        want.split(' ').count() == 3,
        got.splitn(3, ' ').collect::<Vec<_>>(),
    );
    let got = if want_from {
        got.clone()
    } else {
        got_from
            .iter()
            .take(2)
            .copied()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        got, want,
        "to {to} from {:?} as {} mark {}",
        how.from, how.uid, how.mark
    );
}

fn user(uid: u32) -> Call<'static> {
    Call {
        uid,
        ..Call::default()
    }
}

#[test]
fn outbound_goes_where_it_should() {
    let net = world();
    net.capture(&ENVIRONMENT);
    let pod = &net.pod;
    for (outside, excluded) in [("10.88.0.1", "10.99.0.1"), ("[fd88::1]", "[fd99::1]")] {
        let at = |port: u16| format!("{outside}:{port}");
        for uid in [0, 1000] {
            expect(pod, user(uid), &at(80), &format!("15001 {}", at(80)));
        }
        expect(pod, user(0), &at(4711), &format!("15001 {}", at(4711)));
        let own = call(pod, user(PROXY), &at(80));
        assert!(
            own.starts_with("outside"),
            "the proxy's own connections get out: {own}"
        );
        let own = call(pod, user(0), &at(5432));
        assert!(own.starts_with("outside"), "an excluded port: {own}");
        let own = call(pod, user(0), &format!("{excluded}:80"));
        assert!(own.starts_with("outside"), "an excluded network: {own}");
        for uid in [0, PROXY] {
            let marked = Call {
                uid,
                mark: true,
                ..Call::default()
            };
            expect(pod, marked, &at(80), &format!("15002 {}", at(80)));
        }
    }
}

#[test]
fn inbound_goes_where_it_should() {
    let net = world();
    net.capture(&ENVIRONMENT);
    for (pod, neighbor, gateway) in [
        ("10.77.0.2", "10.77.0.9", "10.77.0.1"),
        ("[fd77::2]", "fd77::9", "fd77::1"),
    ] {
        let at = |port: u16| format!("{pod}:{port}");
        let from = |ip| Call {
            from: Some(ip),
            ..Call::default()
        };
        for port in [8080, 9090, 15020, 4711] {
            expect(
                &net.node,
                from(neighbor),
                &at(port),
                &format!("15006 {} {neighbor}", at(port)),
            );
        }
        for port in [8080, 9090, 15020] {
            expect(
                &net.node,
                from(gateway),
                &at(port),
                &format!("15007 {} {gateway}", at(port)),
            );
        }
        for (who, port) in [
            (gateway, 15021),
            (neighbor, 15021),
            (neighbor, 7000),
            (gateway, 7000),
        ] {
            let got = call(&net.node, from(who), &at(port));
            assert!(got.starts_with("app"), "{who} to {port}: {got}");
        }
    }
}

/// A client that the node masquerades has the node's address, so no connection from there may go past the sidecar. A TCP
/// probe is truthful all the same.
#[test]
fn tcp_probes_are_truthful_and_let_nothing_past_the_sidecar() {
    let net = Net::new();
    for any in ["0.0.0.0", "[::]"] {
        listen(&net.pod, "15007", format!("{any}:15007").parse().unwrap());
    }
    let ports: Vec<String> = (9090..9100).map(|port: u16| port.to_string()).collect();
    net.capture(&[("HEDDLE_TCP_PROBE_PORTS", &ports.join(","))]);
    let listeners = [
        ("10.77.0.2", "10.77.0.1", 9090, "0.0.0.0:9090"),
        ("[fd77::2]", "fd77::1", 9090, "[::]:9090"),
        ("10.77.0.2", "10.77.0.1", 9091, "10.77.0.2:9091"),
        ("[fd77::2]", "fd77::1", 9091, "[fd77::2]:9091"),
    ];
    for (pod, node, port, at) in listeners {
        let to = format!("{pod}:{port}");
        let probe = Call {
            from: Some(node),
            ..Call::default()
        };
        let closed = call(&net.node, probe, &to);
        assert!(closed.contains("ECONNREFUSED"), "{to}: {closed}");
        listen(&net.pod, "app", at.parse().unwrap());
        expect(&net.node, probe, &to, &format!("15007 {to} {node}"));
    }
    // A socket that the probe cannot reach without a sidecar does not satisfy the probe with one.
    for (at, to, node) in [
        ("127.0.0.1:9092", "10.77.0.2:9092", "10.77.0.1"),
        ("[::1]:9092", "[fd77::2]:9092", "fd77::1"),
    ] {
        listen(&net.pod, "app", at.parse().unwrap());
        let probe = Call {
            from: Some(node),
            ..Call::default()
        };
        let closed = call(&net.node, probe, to);
        assert!(closed.contains("ECONNREFUSED"), "{to}: {closed}");
    }
}

#[test]
fn capture_ports_refuse_every_caller_at_once() {
    let net = world();
    // Exclusions open no way to them.
    net.capture(&[
        ("HEDDLE_EXCLUDE_INBOUND_PORTS", "15001,15002,15006,15007"),
        ("HEDDLE_TCP_PROBE_PORTS", "15001,15002,15006,15007"),
    ]);
    for (pod, loopback, neighbor, gateway) in [
        ("10.77.0.2", "127.0.0.1", "10.77.0.9", "10.77.0.1"),
        ("[fd77::2]", "[::1]", "fd77::9", "fd77::1"),
    ] {
        for port in SIDECAR {
            for from in [neighbor, gateway] {
                let how = Call {
                    from: Some(from),
                    ..Call::default()
                };
                let got = call(&net.node, how, &format!("{pod}:{port}"));
                assert!(got.contains("ECONNREFUSED"), "{from} to {port}: {got}");
            }
            for (uid, to) in [(0, loopback), (PROXY, loopback), (0, pod), (PROXY, pod)] {
                let got = call(&net.pod, user(uid), &format!("{to}:{port}"));
                assert!(got.contains("ECONNREFUSED"), "{uid} to {to}:{port}: {got}");
            }
        }
        // Of the other ports between, each is an application's.
        for port in (15000..=15021).filter(|port| !SIDECAR.contains(port) && *port != 15021) {
            let how = Call {
                from: Some(neighbor),
                ..Call::default()
            };
            let to = format!("{pod}:{port}");
            expect(&net.node, how, &to, &format!("15006 {to} {neighbor}"));
        }
    }
    // The same numbers at another machine are that machine's.
    for port in SIDECAR {
        for outside in ["10.88.0.1", "[fd88::1]"] {
            let to = format!("{outside}:{port}");
            expect(&net.pod, user(0), &to, &format!("15001 {to}"));
        }
    }
}

#[test]
fn the_pod_reaches_itself_as_it_should() {
    let net = world();
    net.capture(&ENVIRONMENT);
    let pod = &net.pod;
    for (ip, loopback, inbound_source) in [
        ("10.77.0.2", "127.0.0.1", "127.0.0.6"),
        ("[fd77::2]", "[::1]", "::6"),
    ] {
        let at = |port: u16| format!("{ip}:{port}");
        expect(pod, user(0), &at(8080), &format!("15001 {}", at(8080)));
        expect(pod, user(PROXY), &at(8080), &format!("15006 {}", at(8080)));
        let direct = |how, to: &str| {
            let got = call(pod, how, to);
            assert!(
                got.starts_with("app"),
                "to {to} from {:?} as {}: {got}",
                how.from,
                how.uid
            );
            got
        };
        for uid in [0, PROXY] {
            direct(user(uid), &format!("{loopback}:8080"));
        }
        direct(user(PROXY), &at(7000));
        let to_application = Call {
            from: Some(inbound_source),
            uid: PROXY,
            mark: false,
        };
        let got = direct(to_application, &at(8080));
        assert!(got.ends_with(&format!(" {inbound_source}")), "{got}");
    }
}

#[test]
fn named_node_addresses_count_too() {
    let net = world();
    net.capture(&[("HEDDLE_HOST_IPS", "10.77.0.9,fd77::9")]);
    for (pod, node) in [("10.77.0.2", "10.77.0.9"), ("[fd77::2]", "fd77::9")] {
        let from = Call {
            from: Some(node),
            ..Call::default()
        };
        expect(
            &net.node,
            from,
            &format!("{pod}:8080"),
            &format!("15007 {pod}:8080 {node}"),
        );
    }
}

#[test]
fn again_is_the_same_and_different_settings_replace() {
    let net = world();
    run(&format!(
        "ip netns exec {} nft 'add table ip other; add chain ip other c'",
        net.pod
    ));
    let rules = || run(&format!("ip netns exec {} nft list ruleset", net.pod));
    net.capture(&ENVIRONMENT);
    let first = rules();
    net.capture(&ENVIRONMENT);
    assert_eq!(rules(), first);
    assert!(
        first.contains("table ip other"),
        "others' tables are not ours to touch\n{first}"
    );
    assert_eq!(first.matches("table inet heddle").count(), 1);
    net.capture(&[]);
    assert!(!rules().contains("5432"), "{}", rules());
    expect(&net.pod, user(0), "10.88.0.1:5432", "15001 10.88.0.1:5432");
}

#[test]
fn datagrams_are_left_alone() {
    let net = world();
    net.capture(&[]);
    let server = inside(&net.node, || {
        std::net::UdpSocket::bind("10.88.0.1:53").unwrap()
    });
    let client = inside(&net.pod, || std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
    server
        .set_read_timeout(Some(std::time::Duration::from_secs(3)))
        .unwrap();
    client.send_to(b"ask", "10.88.0.1:53").unwrap();
    let mut buffer = [0; 16];
    let (length, _) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"ask");
}

#[test]
fn a_pod_without_ipv6_is_captured_too() {
    let net = Net::new();
    run(&format!(
        "ip netns exec {} sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.lo.disable_ipv6=1",
        net.pod
    ));
    listen(&net.pod, "15001", "0.0.0.0:15001".parse().unwrap());
    net.capture(&[]);
    expect(&net.pod, user(0), "10.88.0.1:80", "15001 10.88.0.1:80");
}

#[test]
fn many_exclusions_fit() {
    let net = Net::new();
    listen(&net.pod, "15001", "0.0.0.0:15001".parse().unwrap());
    // As many as injection admits, in every list.
    let ports: Vec<String> = (20_000..21_000).map(|p: u16| p.to_string()).collect();
    let blocks: Vec<String> = (0..1_000).map(|n| format!("fd00:{n:x}::/32")).collect();
    let ports = ports.join(",");
    net.capture(&[
        ("HEDDLE_EXCLUDE_INBOUND_PORTS", &ports),
        ("HEDDLE_EXCLUDE_OUTBOUND_PORTS", &ports),
        ("HEDDLE_EXCLUDE_OUTBOUND_CIDRS", &blocks.join(",")),
    ]);
    expect(&net.pod, user(0), "10.88.0.1:80", "15001 10.88.0.1:80");
}

#[test]
fn without_the_right_it_says_what_it_needs_and_changes_nothing() {
    let net = Net::new();
    let agent = env!("CARGO_BIN_EXE_heddle-agent");
    let output = Command::new("ip")
        .args([
            "netns",
            "exec",
            &net.pod,
            "setpriv",
            "--bounding-set=-net_admin",
            "--inh-caps=-all",
            agent,
            "init",
        ])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("NET_ADMIN"), "{stderr}");
    assert!(!run(&format!("ip netns exec {} nft list ruleset", net.pod)).contains("heddle"));
}
