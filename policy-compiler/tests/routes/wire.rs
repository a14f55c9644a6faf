//! Applications that echo, the bootstrap of an Envoy with some tables, and requests to it.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Result, ensure};
use heddle_policy_compiler::print;
use heddle_policy_compiler::traffic::{Request, RouteTable};
use serde_json::{Value, json};

use crate::harness::running::{connect, request as head_of};
use crate::{APPLICATIONS, BACKENDS, ENVOY, MIRRORS, port_of};

/// The headers of every response of a backend that echoes.
pub const RESPONSE: [(&str, &str); 2] = [("y-a", "x"), ("y-b", "y")];

/// Answers with its name and its address in a first line, and with the head of the request.
pub fn echo(name: String) -> impl Fn(&mut TcpStream) + Send + Clone {
    move |stream| {
        let Some(head) = head_of(stream) else {
            return;
        };
        let headers: String = RESPONSE
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let length = name.len() + 2 + head.len();
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{headers}connection: close\r\n\r\n{name}\r\n"
        );
        let _ = stream.write_all(&head);
    }
}

/// The request of an echoed head, with the headers that tests set.
pub fn echoed(head: &str) -> Option<Request> {
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = named_headers(head);
    let host = headers.iter().find(|(name, _)| name == "host")?.1.clone();
    Some(Request {
        host,
        method,
        path,
        headers: of_tests(headers),
    })
}

/// The headers of a head, with names in lower case.
pub fn named_headers(head: &str) -> Vec<(String, String)> {
    let lines = head.lines().skip(1).take_while(|line| !line.is_empty());
    let pairs = lines.filter_map(|line| line.split_once(':'));
    pairs
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect()
}

/// The headers that tests set, by name. The lines of one name keep their order.
pub fn of_tests(mut headers: Vec<(String, String)>) -> Vec<(String, String)> {
    headers.retain(|(name, _)| ["x-a", "x-b", "x-c", "y-a", "y-b"].contains(&name.as_str()));
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    headers
}

/// The route configuration of a table; each route names its place in its answers.
fn configuration(table: &RouteTable) -> Value {
    let mut config = print::table_to_json(table);
    config["validate_clusters"] = json!(false);
    let hosts = config["virtual_hosts"].as_array_mut();
    for (host, routes) in hosts.into_iter().flatten().enumerate() {
        let routes = routes["routes"].as_array_mut();
        for (index, route) in routes.into_iter().flatten().enumerate() {
            let header = json!({"key": "x-place", "value": format!("{host}/{index}")});
            let mut headers = route["response_headers_to_add"].as_array().cloned();
            headers
                .get_or_insert_default()
                .push(json!({"header": header}));
            route["response_headers_to_add"] = json!(headers);
        }
    }
    config
}

pub fn bootstrap(tables: &[RouteTable]) -> Value {
    let at = |ip: &str, port: u16| json!({"socket_address": {"address": ip, "port_value": port}});
    let listener = |(index, table): (usize, &RouteTable)| {
        let slot = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.filter_chain.v3.FilterChainConfig"});
        let router =
            json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"});
        let filters = json!([{"name": "policy", "typed_config": slot}, {"name": "router", "typed_config": router}]);
        let manager = json!({"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "t", "route_config": configuration(table), "http_filters": filters});
        json!({"name": index.to_string(), "address": at(ENVOY, port_of(index)), "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]})
    };
    let cluster = |name: String, ips: &[&str], index: usize| {
        let endpoint = |ip: &&str| json!({"endpoint": {"address": at(ip, port_of(index))}});
        let endpoints: Vec<Value> = ips.iter().map(endpoint).collect();
        json!({"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}})
    };
    let listeners: Vec<Value> = tables.iter().enumerate().map(listener).collect();
    let clusters: Vec<Value> = (0..BACKENDS)
        .flat_map(|of| {
            let backend = cluster(format!("b{of}"), &APPLICATIONS, of);
            [backend, cluster(format!("m{of}"), &[MIRRORS], of)]
        })
        .collect();
    json!({"admin": {"address": at("127.79.0.9", 9901)}, "static_resources": {"listeners": listeners, "clusters": clusters}})
}

/// Head and body of the answer to a request with an id.
pub fn send(port: u16, id: &str, request: &Request) -> Result<(String, String)> {
    let mut stream = connect(&format!("{ENVOY}:{port}"))?;
    let headers: String = request
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    write!(
        stream,
        "{} {} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\nx-id: {id}\r\n{headers}\r\n",
        request.method, request.path, request.host
    )?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    // To the end of the body and not of the connection, which Envoy leaves open for a while.
    let (head, body) = loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        let length = |head: &str| {
            let mut lines = head.lines();
            lines.find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok())
        };
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len() >= length(head).unwrap_or(0)
        {
            break (head.to_owned(), body.to_owned());
        }
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "no answer: {text}");
        answer.extend_from_slice(&buffer[..read]);
    };
    Ok((head, body))
}
