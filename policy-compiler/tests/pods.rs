//! Pods called by their own addresses share a cluster, and a real Envoy still reaches the one that was called and no other.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Result, ensure};
use harness::running::{Trust, connect, http, serve, start, start_as_is, status};
use heddle_policy_compiler::{Compiled, World, compile, ingest};
use serde_json::Value;

const HTTP: u16 = 8001;
const TCP: u16 = 8101;
/// Pods of one service account: name, address, and where the application is.
const PODS: [(&str, &str, &str); 2] = [
    ("db-0", "127.78.0.1", "127.78.1.1"),
    ("db-1", "127.78.0.2", "127.78.1.2"),
];

fn compiled() -> Compiled {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: db, namespace: shop}}\nspec: {{clusterIP: None, selector: {{app: db}}, ports: [{{name: http, port: {HTTP}, protocol: TCP}}, {{name: tcp, port: {TCP}, protocol: TCP}}]}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: client, namespace: shop}}\nspec: {{serviceAccountName: client, initContainers: [{{name: heddle-proxy, restartPolicy: Always}}], containers: [{{name: app}}]}}\nstatus: {{podIPs: [{{ip: 127.78.0.9}}]}}\n"
    );
    for (name, ip, app) in PODS {
        text.push_str(&format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: db}}, annotations: {{heddle.dev/standalone-app: {app}}}}}\nspec: {{serviceAccountName: db, containers: [{{name: app}}]}}\nstatus: {{podIPs: [{{ip: {ip}}}]}}\n"));
    }
    let mut builder = World::builder();
    for manifest in ingest::parse_yaml("pods", &text).objects {
        builder.apply(manifest.object);
    }
    compile(&builder.world())
}

/// Without capture: the destinations' listeners at addresses of their own, 127.78.2.x for 127.78.0.x, and nothing else. And the endpoint of
/// the second pod's TCP port is gone.
fn beside(config: &mut Value) {
    let listeners = config["static_resources"]["listeners"]
        .as_array_mut()
        .unwrap();
    listeners.retain(|listener| listener["name"].as_str().unwrap().starts_with("dst|"));
    for listener in listeners {
        let address = &mut listener["address"]["socket_address"]["address"];
        *address = address
            .as_str()
            .unwrap()
            .replace("127.78.0.", "127.78.2.")
            .into();
        listener["bind_to_port"] = true.into();
    }
    let clusters = config["static_resources"]["clusters"]
        .as_array_mut()
        .unwrap();
    for cluster in clusters
        .iter_mut()
        .filter(|c| c["name"] == "pods|shop/db|tcp")
    {
        let endpoints = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"];
        assert_eq!(endpoints.as_array().unwrap().len(), 2);
        endpoints.as_array_mut().unwrap().pop();
    }
}

#[test]
fn a_pod_that_was_called_and_no_other_answers() -> Result<()> {
    let compiled = compiled();
    let folder = tempfile::tempdir()?;
    let trust = Trust::new()?;
    let mut envoys = Vec::new();
    for (index, (name, _, app)) in PODS.into_iter().enumerate() {
        serve(format!("{app}:{HTTP}"), move |stream| page(stream, name))?;
        serve(format!("{app}:{TCP}"), move |stream| {
            let _ = stream.write_all(name.as_bytes());
            // Closed with bytes unread, the connection would be reset, and the answer perhaps lost.
            let _ = stream.read(&mut [0; 64]);
        })?;
        let admin = format!("127.78.3.{index}:9901");
        envoys.push(start_as_is(&compiled, name, &trust, folder.path(), &admin)?);
    }
    let addresses = PODS
        .iter()
        .flat_map(|(_, ip, _)| [HTTP, TCP].map(|port| format!("{ip}:{port}")));
    let wanted: BTreeSet<Arc<str>> = addresses
        .map(|at| Ok(Compiled::on_demand_name(at.parse()?, harness::HOUR)))
        .collect::<Result<_>>()?;
    let admin = "127.78.3.9:9901";
    let client = ("client", &wanted);
    envoys.push(start(
        &compiled,
        client,
        &trust,
        folder.path(),
        admin,
        beside,
    )?);

    let other = |mine: &str| PODS.iter().find(|(_, ip, _)| *ip != mine).unwrap().1;
    for (name, ip, _) in PODS {
        let at = format!("{}:{HTTP}", ip.replace("127.78.0.", "127.78.2."));
        let there = format!("{}:{HTTP}", other(ip));
        for headers in [
            String::new(),
            format!("x-envoy-original-dst-host: {there}\r\n"),
            format!("address: {there}\r\nx-forwarded-host: {there}\r\nenvoy.lb: {there}\r\n"),
        ] {
            let answer = http(&at, "GET", &format!("http://{there}/"), &headers)?;
            ensure!(
                status(&answer) == 200 && answer.ends_with(name),
                "{name}: {answer}"
            );
        }
    }
    let answer = |at: &str| -> Result<String> {
        let mut stream = connect(&format!("{at}:{TCP}"))?;
        let _ = stream.write_all(b"hello");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        Ok(text)
    };
    ensure!(answer("127.78.2.1")? == "db-0");
    ensure!(
        answer("127.78.2.2")?.is_empty(),
        "another stood in for a pod that is gone"
    );
    Ok(())
}

fn page(stream: &mut TcpStream, text: &str) {
    let mut buffer = [0; 4096];
    let _ = stream.read(&mut buffer);
    let length = text.len();
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
    );
}
