//! Calls to the API server, by path: no types, for the objects written are known byte by byte.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http::{Method, Request, header};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A client of the API server, as its administrator.
#[derive(Clone)]
pub struct Api(kube::Client);

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}

/// When a write was sent, and when the API server acknowledged it.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// Just before.
    pub sent: Instant,
    /// Just after.
    pub acknowledged: Instant,
}

impl Api {
    /// By a kubeconfig.
    ///
    /// # Errors
    /// When it cannot be read, or does not describe a usable cluster.
    pub async fn connect(kubeconfig: &Path) -> Result<Self> {
        let read = Kubeconfig::read_from(kubeconfig)?;
        let options = KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(read, &options).await?;
        config.connect_timeout = Some(Duration::from_secs(5));
        Ok(Self(kube::Client::try_from(config)?))
    }

    /// The answer to a GET.
    ///
    /// # Errors
    /// When it fails.
    pub async fn text(&self, path: &str) -> Result<String> {
        self.call(Method::GET, path, None).await
    }

    /// An object, or a list.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.text(path).await?)?)
    }

    /// Creates an object in a collection; the answer.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn create(&self, path: &str, object: &Value) -> Result<String> {
        self.call(Method::POST, path, Some(object)).await
    }

    /// Deletes an object at once.
    ///
    /// # Errors
    /// When the API server refuses, or it is not there.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let path = format!("{path}?gracePeriodSeconds=0");
        self.call(Method::DELETE, &path, None).await.map(drop)
    }

    /// Creates an object, or replaces the differing parts of an existing one.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn put(&self, path: &str, name: &str, object: &Value) -> Result<()> {
        match self.create(path, object).await {
            Err(refused) if is_there(&refused) => {
                self.patch(&format!("{path}/{name}"), object).await?;
                Ok(())
            }
            created => created.map(drop),
        }
    }

    /// Merges a patch into an object.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn patch(&self, path: &str, patch: &Value) -> Result<Written> {
        let sent = Instant::now();
        self.call(Method::PATCH, path, Some(patch)).await?;
        Ok(Written {
            sent,
            acknowledged: Instant::now(),
        })
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<String> {
        let kind = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let what = format!("{method} {path}");
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, kind)
            .body(body.map_or_else(Vec::new, |value| value.to_string().into_bytes()))?;
        tokio::time::timeout(TIMEOUT, self.0.request_text(request))
            .await
            .with_context(|| format!("{what}: no answer in {TIMEOUT:?}"))?
            .with_context(|| what)
    }
}

/// Whether an object could not be created because there is one of its name.
fn is_there(failed: &anyhow::Error) -> bool {
    refusal(failed) == Some(409)
}

/// The API server's answer, if it gave one.
pub fn refusal(failed: &anyhow::Error) -> Option<u16> {
    failed.chain().find_map(|error| match error.downcast_ref() {
        Some(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    })
}

/// The path of a core collection.
pub fn core(namespace: &str, plural: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/{plural}")
}

/// The path of a collection of a named group.
pub fn group(group_version: &str, namespace: &str, plural: &str) -> String {
    format!("/apis/{group_version}/namespaces/{namespace}/{plural}")
}

/// The path of a service's only slice.
pub fn slice(service: usize) -> String {
    let namespace = crate::mesh::namespace_of(service);
    let slices = group("discovery.k8s.io/v1", &namespace, "endpointslices");
    format!("{slices}/{}", crate::objects::slice_name(service))
}
