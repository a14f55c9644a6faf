//! The endpoints of a caller as `heddle why` has them: those that its sidecar has.

use heddle_policy_compiler::traffic::Backend;
use heddle_policy_compiler::{Call, Compiled, compile};
use serde_json::json;

use crate::cluster::view::{endpoints, view};
use crate::cluster::{apply, ending, mesh, pod, service, slice};
use crate::{WEB, name, port, shop};

/// The services that a connection of the caller gets, with their weights and the number of their servers, as `heddle why` has it.
fn explained(compiled: &Compiled, service: &str, port: u16) -> Vec<(String, u32, usize)> {
    let explanation = compiled.explain(&Call {
        from: name("caller"),
        host: service.to_owned(),
        port,
        tls: false,
        method: "GET".to_owned(),
        path: "/".to_owned(),
        headers: Vec::new(),
    });
    let backends = explanation.unwrap().backends.into_iter();
    let backends = backends.map(|of| {
        let Backend::Service(name, _) = &of.backend else {
            return (format!("{:?}", of.backend), of.weight, of.servers.len());
        };
        (name.name.to_string(), of.weight, of.servers.len())
    });
    backends.collect()
}

/// The last pod of `old` ends, and answers until then.
#[test]
fn new_connections_go_to_no_backend_whose_endpoints_all_end_also_as_explained() {
    let tcp = || json!({"name": "tcp-x", "port": 8080, "protocol": "TCP"});
    let of = |app: &str, ip: &str| {
        let ports = json!([{"name": "tcp-x", "port": 90, "protocol": "TCP", "targetPort": 8080}]);
        service(app, ip, json!({"app": app}), ports)
    };
    let slice_of = |app: &str, ip: &str, ready: bool| {
        let mut slice = slice(app, app, tcp(), &[(app, ip, ready)]);
        let conditions = json!({"ready": ready, "serving": true, "terminating": !ready});
        slice["endpoints"][0]["conditions"] = conditions;
        slice
    };
    let backend = |name: &str| json!({"name": name, "port": 90, "weight": 1});
    let parent = json!({"group": "", "kind": "Service", "name": "old"});
    let rules = json!([{"backendRefs": [backend("old"), backend("new")]}]);
    let route = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "TCPRoute",
        "metadata": {"name": "r", "namespace": "shop"}, "spec": {"parentRefs": [parent], "rules": rules}});
    let old = || pod("old", "old", "10.0.0.5", true, false);
    let shares = |ready: [bool; 2]| {
        let mut builder = shop(json!({"app": "web"}));
        let services = [
            of("old", "10.96.0.2"),
            of("new", "10.96.0.3"),
            route.clone(),
        ];
        apply(&mut builder, services);
        let [of_old, of_new] = ready;
        let slices = [
            slice_of("old", "10.0.0.5", of_old),
            slice_of("new", "10.0.0.6", of_new),
        ];
        apply(&mut builder, slices);
        let old = if of_old { old() } else { ending(old()) };
        let new = pod("new", "new", "10.0.0.6", true, of_new);
        let new = if of_new { new } else { ending(new) };
        apply(&mut builder, [old, new]);
        let compiled = compile(&builder.world());
        let hosts = endpoints(&view(&compiled, "caller", &[]), "out|shop/old|90");
        (hosts, explained(&compiled, "old", 90))
    };
    let both = || vec!["10.0.0.5:8080".to_owned(), "10.0.0.6:8080".to_owned()];
    let each = |names: &[&str]| {
        let each = names.iter().map(|name| ((*name).to_owned(), 1, 1));
        each.collect::<Vec<_>>()
    };
    assert_eq!(shares([true, true]), (both(), each(&["old", "new"])));
    let new = vec!["10.0.0.6:8080".to_owned()];
    assert_eq!(shares([false, true]), (new, each(&["new"])));
    // None is ready: those that end serve to their end.
    assert_eq!(shares([false, false]), (both(), each(&["old", "new"])));
}

/// Callers of a bypassed namespace send plain text where others do not.
#[test]
fn endpoints_without_a_sidecar_are_explained_as_the_caller_has_them() {
    for bypassed in [false, true] {
        let mut builder = shop(json!({"app": "web"}));
        let list = if bypassed {
            json!([{"namespace": "shop"}])
        } else {
            json!([])
        };
        let settings = json!({"mode": "Strict", "outbound": "Deny", "bypassedNamespaces": list});
        let plain = pod("web-0", "web", "10.0.0.5", false, true);
        let slice = slice("x", "web", port(), &[("web-0", "10.0.0.5", true)]);
        apply(&mut builder, [mesh(settings), plain, slice]);
        let compiled = compile(&builder.world());
        let hosts = endpoints(&view(&compiled, "caller", &[]), WEB);
        let expected: &[&str] = if bypassed {
            &["10.0.0.5:8080 plain"]
        } else {
            &[]
        };
        assert_eq!(hosts, expected);
        let servers = explained(&compiled, "web", 80);
        assert_eq!(servers, [("web".to_owned(), 1, expected.len())]);
    }
}
