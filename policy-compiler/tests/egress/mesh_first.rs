//! A call to an address of the mesh goes to the mesh, also where the sidecar does not know it yet and the call names a host outside.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cluster::service;
use crate::servers::{Names, dns, server};
use crate::sidecar::{Sidecar, server_of};
use crate::{NOTHING, PORT, compiled, external};

const NAMES: Names = &[
    ("a.m.example.com", std::net::Ipv4Addr::new(127, 96, 3, 11)),
    ("t.m.example.com", std::net::Ipv4Addr::new(127, 96, 3, 12)),
];
/// The address of a service. In the place of capture and its second stage, a server is there.
const SERVICE: &str = "127.96.3.5";

#[test]
fn addresses_of_the_mesh_win_over_names() -> Result<()> {
    let (at, _) = dns(NAMES)?;
    for &(name, ip) in NAMES {
        server(&ip.to_string(), name)?;
    }
    server(SERVICE, "mesh")?;
    let ports = json!([{"name": "http", "port": PORT, "protocol": "TCP", "targetPort": 8080}]);
    let objects = [
        external("a", "a.m.example.com", "HTTP"),
        external("t", "t.m.example.com", "TLS"),
        service("web", SERVICE, json!({"app": "web"}), ports),
    ];
    let sidecar = Sidecar::start(&compiled("Deny", &objects), "127.96.3.2", at)?;
    for (ip, http, tls) in [
        (NOTHING, "a.m.example.com", "t.m.example.com"),
        (SERVICE, "mesh", "mesh"),
    ] {
        let answer = sidecar.get(ip, "a.m.example.com")?;
        ensure!(server_of(&answer) == Some(http), "{ip}: {answer}");
        let greeting = sidecar.greeting(ip, "t.m.example.com")?;
        ensure!(greeting == tls, "{ip}: {greeting}");
    }
    Ok(())
}
