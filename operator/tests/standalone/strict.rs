//! The flip to mutual TLS alone, and back: no request of a sidecar is lost, and none of its connections ends.

use std::net::TcpStream;

use crate::bypass::{Load, OPEN, switch};
use crate::bytes::{self, greeted, works};
use crate::harness::Fixture;

pub fn loses_no_request_of_a_sidecar(mesh: &Fixture) {
    let _taken = bytes::application(mesh.address(121, 5432));
    switch(mesh, "Permissive", false);
    mesh.until_anonymous("200");
    let mut open: Vec<TcpStream> = (0..OPEN)
        .map(|_| greeted(mesh.address(52, 5432)).unwrap())
        .collect();
    let load = Load::start(mesh.address(51, 9080));
    load.goes_on(mesh);
    for (mode, anonymous) in [
        ("Strict", "refused"),
        ("Permissive", "200"),
        ("Strict", "refused"),
    ] {
        switch(mesh, mode, false);
        mesh.until_anonymous(anonymous);
        load.goes_on(mesh);
    }
    let failures = load.failures();
    assert!(failures.is_empty(), "{failures:#?}");
    let working = open.iter_mut().filter_map(|s| works(s).then_some(()));
    assert_eq!(working.count(), OPEN, "connections stay");
}
