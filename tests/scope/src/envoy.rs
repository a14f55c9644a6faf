//! The admin interface of a sidecar's Envoy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nix::unistd::Pid;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::eventually;

/// A busy machine may make it wait.
const LIMIT: Duration = Duration::from_secs(10);

/// Every listener, cluster and route configuration: its version, and when Envoy took it.
pub type Configuration = BTreeMap<String, String>;

/// A sidecar's Envoy.
#[derive(Clone, Debug)]
pub struct Envoy {
    pub(crate) admin: PathBuf,
    pub(crate) pid: Pid,
}

impl Envoy {
    /// The names of its listeners.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn listeners(&self) -> Result<BTreeSet<String>> {
        self.names("/listeners?format=json", "listener_statuses")
            .await
    }

    /// The names of its clusters.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn clusters(&self) -> Result<BTreeSet<String>> {
        self.names("/clusters?format=json", "cluster_statuses")
            .await
    }

    /// The addresses of a cluster's endpoints, sorted.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn addresses(&self, cluster: &str) -> Result<Vec<IpAddr>> {
        let answer: Value = serde_json::from_str(&self.ask("/clusters?format=json").await?)?;
        let mut found: Vec<IpAddr> = list(&answer, "cluster_statuses")
            .filter(|status| status.get("name").is_some_and(|name| name == cluster))
            .flat_map(|status| list(status, "host_statuses"))
            .filter_map(|host| host.pointer("/address/socket_address/address")?.as_str())
            .filter_map(|ip| ip.parse().ok())
            .collect();
        found.sort();
        Ok(found)
    }

    /// The figures with names that match a regular expression.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn stats(&self, filter: &str) -> Result<BTreeMap<String, u64>> {
        let filter: String = filter.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let text = self.ask(&format!("/stats?filter={filter}")).await?;
        Ok(text
            .lines()
            .filter_map(|line| line.rsplit_once(": "))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect())
    }

    /// The sum of the figures with names that match a regular expression.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn sum(&self, filter: &str) -> Result<u64> {
        Ok(self.stats(filter).await?.values().sum())
    }

    /// The connections that no listener of their destination took at once: to a destination that is not known yet, or
    /// never. Those to a destination that is known for some time are forgotten with the cluster that counted them.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn fetched(&self) -> Result<u64> {
        self.passed_on("dst|").await
    }

    /// The same of one destination.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn fetched_to(&self, to: SocketAddr) -> Result<u64> {
        self.passed_on(&format!("dst|{to}|")).await
    }

    async fn passed_on(&self, prefix: &str) -> Result<u64> {
        // Figures of hosts are kept independently of the other figures of a sidecar.
        let answer: Value = serde_json::from_str(&self.ask("/clusters?format=json").await?)?;
        let name = |cluster: &Value| {
            cluster
                .get("name")
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let connections = |host: &Value| -> u64 {
            list(host, "stats")
                .filter(|stat| stat.get("name").is_some_and(|name| name == "cx_total"))
                .filter_map(|stat| stat.get("value")?.as_str()?.parse::<u64>().ok())
                .sum()
        };
        Ok(list(&answer, "cluster_statuses")
            .filter(|cluster| name(cluster).is_some_and(|name| name.starts_with(prefix)))
            .flat_map(|cluster| list(cluster, "host_statuses"))
            .map(connections)
            .sum())
    }

    /// The names that it was given because a connection asked for them.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn answered(&self) -> Result<u64> {
        self.sum(r"^cluster_manager\.odcds\.update_success$").await
    }

    /// The responses of the control plane with clusters, and those with listeners.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn updates(&self) -> Result<[u64; 2]> {
        Ok([
            self.sum(r"^cluster_manager\.cds\.update_success$").await?,
            self.sum(r"^listener_manager\.lds\.update_success$").await?,
        ])
    }

    /// The bytes that came from the control plane.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn received(&self) -> Result<u64> {
        self.sum(r"^cluster\.heddle-control-plane\.upstream_cx_rx_bytes_total$")
            .await
    }

    /// Whether it has a stream to the control plane.
    ///
    /// # Errors
    /// When it has not.
    pub async fn connected(&self) -> Result<()> {
        let state = self.sum(r"^control_plane\.connected_state$").await?;
        ensure!(state == 1, "it is not connected");
        Ok(())
    }

    /// Waits until the sidecar sees that it has lost the control plane.
    ///
    /// # Errors
    /// When it does not.
    pub async fn disconnected(&self) -> Result<()> {
        eventually(
            "the sidecar sees that the control plane is gone",
            async || {
                ensure!(self.connected().await.is_err(), "it is connected");
                Ok(())
            },
        )
        .await?;
        Ok(())
    }

    /// How often each response flag was seen, over all failed requests and all connections of this sidecar, in and out.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn flags(&self) -> Result<BTreeMap<String, u64>> {
        let text = self
            .ask("/stats/prometheus?filter=heddle_(request_failures_total|tcp_connections)")
            .await?;
        let mut flags = BTreeMap::new();
        for line in text.lines() {
            // The flags are the seventh field of the tag (`xds-types/src/golden.rs`).
            let tag = line.split_once("{edge=\"").map(|(_, rest)| rest);
            let (Some(found), Some((_, value))) = (
                tag.and_then(|tag| tag.split(';').nth(6)),
                line.rsplit_once(' '),
            ) else {
                continue;
            };
            for flag in found.split(',') {
                *flags.entry(flag.to_owned()).or_default() += value.parse::<u64>().unwrap_or(0);
            }
        }
        Ok(flags)
    }

    /// All it has but endpoints.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn configuration(&self) -> Result<Configuration> {
        let dump: Value = serde_json::from_str(&self.ask("/config_dump").await?)?;
        let mut all = Configuration::new();
        let parts = [
            ("dynamic_active_clusters", "/cluster/name", ""),
            ("dynamic_listeners", "/name", "/active_state"),
            ("dynamic_route_configs", "/route_config/name", ""),
        ];
        for config in list(&dump, "configs") {
            for (part, name, state) in parts {
                for item in list(config, part) {
                    let text = |at: &str| item.pointer(at).and_then(Value::as_str).unwrap_or("-");
                    let version = text(&format!("{state}/version_info"));
                    let updated = text(&format!("{state}/last_updated"));
                    all.insert(
                        format!("{part} {}", text(name)),
                        format!("{version} of {updated}"),
                    );
                }
            }
        }
        Ok(all)
    }

    /// Private memory in KiB.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn private_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .context("no RssAnon")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// The file descriptors that it has open.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid))?.count())
    }

    async fn names(&self, path: &str, field: &str) -> Result<BTreeSet<String>> {
        let answer: Value = serde_json::from_str(&self.ask(path).await?)?;
        Ok(list(&answer, field)
            .filter_map(|item| item.get("name")?.as_str())
            .map(str::to_owned)
            .collect())
    }

    async fn ask(&self, path: &str) -> Result<String> {
        tokio::time::timeout(LIMIT, self.exchange(path))
            .await
            .with_context(|| format!("Envoy's admin socket does not answer {path}"))?
    }

    async fn exchange(&self, path: &str) -> Result<String> {
        let stream = UnixStream::connect(&self.admin).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::get(path)
            .header("host", "admin")
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        ensure!(response.status() == 200, "{path}: {}", response.status());
        let body = response.into_body().collect().await?.to_bytes();
        connection.abort();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value
        .get(field)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}
