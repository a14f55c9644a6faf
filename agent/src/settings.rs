//! The environment, parsed once at the edge.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use heddle_identity::{SpiffeError, SpiffeId};
use heddle_xds_types::golden;

/// A missing or invalid variable of the environment.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Not set, or empty.
    #[error(
        "the environment variable {0} is not set; set it, or start the pod again where the webhook of Heddle injects it"
    )]
    Missing(&'static str),
    /// Set to an invalid value.
    #[error("the environment variable {name} is not valid (`{value}`); {fix}")]
    Bad {
        /// Which.
        name: &'static str,
        /// Its value.
        value: String,
        /// The valid values, as an instruction.
        fix: &'static str,
    },
    /// The parts do not make an identity.
    #[error(
        "HEDDLE_TRUST_DOMAIN, POD_NAMESPACE and POD_SERVICE_ACCOUNT are not the parts of an identity; use the names of a trust domain, a namespace and a service account"
    )]
    Identity(#[from] SpiffeError),
}

/// How lines are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// From `HEDDLE_LOG_FORMAT`: `json`, or else text.
    pub fn from_env(read: impl Fn(&str) -> Option<String>) -> Self {
        match read("HEDDLE_LOG_FORMAT").as_deref() {
            Some("json") => Self::Json,
            _ => Self::Text,
        }
    }
}

/// All that `heddle-agent run` takes from its environment.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The control plane's host: a DNS name or an address.
    pub control_plane: String,
    /// The TCP port of the control plane that serves ADS.
    pub ads_port: u16,
    /// The TCP port of the control plane that issues certificates.
    pub ca_port: u16,
    /// The roots to trust until the control plane names newer ones, in PEM.
    pub trust_bundle: String,
    /// The identity of this workload.
    pub id: SpiffeId,
    /// The pod's name.
    pub pod: String,
    /// The workload that people deployed: the pod's own name if the pod has no owner.
    pub workload: String,
    /// The pod's token, renewed by the kubelet, so read again at every use.
    pub token_file: PathBuf,
    /// Envoy's binary.
    pub envoy: PathBuf,
    /// For the sockets and the bootstrap.
    pub runtime_dir: PathBuf,
    /// Where readiness is answered.
    pub ready: Vec<SocketAddr>,
    /// The number of Envoy's worker threads.
    pub concurrency: u32,
    /// Envoy's log level, by Envoy's name.
    pub log_level: String,
    /// How lines are logged, Envoy's too.
    pub log_format: LogFormat,
    /// The time that connections get to end, in whole seconds.
    pub drain: Duration,
    /// The time that the pod has to end, in whole seconds.
    pub grace: Duration,
}

const LEVELS: [&str; 7] = [
    "trace", "debug", "info", "warning", "error", "critical", "off",
];

impl Settings {
    /// Reads the environment through `read`, so that a test needs none.
    ///
    /// # Errors
    /// A variable is missing or invalid; the error names it.
    pub fn from_env(read: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let env = Env(&read);
        let id = SpiffeId::new(
            env.need("HEDDLE_TRUST_DOMAIN")?.parse()?,
            &env.need("POD_NAMESPACE")?,
            &env.need("POD_SERVICE_ACCOUNT")?,
        )?;
        let trust_bundle = env.need("HEDDLE_TRUST_BUNDLE")?;
        if !trust_bundle.contains("-----BEGIN CERTIFICATE-----") {
            return Err(bad("HEDDLE_TRUST_BUNDLE", "...", "use certificates in PEM"));
        }
        let log_level = env.or("HEDDLE_LOG_LEVEL", "warning");
        if !LEVELS.contains(&log_level.as_str()) {
            return Err(bad(
                "HEDDLE_LOG_LEVEL",
                &log_level,
                "use trace, debug, info, warning, error, critical or off",
            ));
        }
        let pod = env.need("POD_NAME")?;
        Ok(Self {
            control_plane: env.host("HEDDLE_CONTROL_PLANE")?,
            ads_port: env.number("HEDDLE_ADS_PORT", 15010)?,
            ca_port: env.number("HEDDLE_CA_PORT", 15011)?,
            trust_bundle,
            id,
            workload: env.or("HEDDLE_WORKLOAD", &pod),
            pod,
            token_file: env.need("HEDDLE_TOKEN_FILE")?.into(),
            envoy: env.or("HEDDLE_ENVOY", "/usr/local/bin/envoy").into(),
            runtime_dir: env.or("HEDDLE_RUNTIME_DIR", "/run/heddle").into(),
            ready: env.addresses("HEDDLE_READY_ADDR", "0.0.0.0:15021,[::]:15021")?,
            concurrency: env.number("HEDDLE_CONCURRENCY", 2)?,
            log_level,
            log_format: LogFormat::from_env(&read),
            drain: Duration::from_secs(env.number("HEDDLE_DRAIN_SECONDS", 5)?),
            grace: Duration::from_secs(env.number("HEDDLE_GRACE_SECONDS", 30)?),
        })
    }

    /// Envoy's node id.
    pub fn node_id(&self) -> String {
        format!("{}/{}", self.id.namespace(), self.pod)
    }

    /// All that Envoy finds in its environment: this side of a connection for the access logs of the compiler's listeners
    /// (ARCHITECTURE.md, names on the wire), and the origin of its spans. Envoy takes the values as they are, and does not interpret them.
    pub(crate) fn labels(&self) -> [(&'static str, String); 4] {
        let (namespace, workload) = (self.id.namespace(), &self.workload);
        // By the conventions of OpenTelemetry.
        let resource = format!(
            "service.name={workload},service.namespace={namespace},k8s.namespace.name={namespace},k8s.pod.name={}",
            self.pod
        );
        [
            ("NS", self.id.namespace().to_owned()),
            ("WL", self.workload.clone()),
            ("ID", self.id.to_string()),
            ("OTEL_RESOURCE_ATTRIBUTES", resource),
        ]
    }

    /// The pod in the labels of its golden metrics.
    pub(crate) fn golden_pod(&self) -> golden::Pod {
        golden::Pod {
            namespace: self.id.namespace().to_owned(),
            workload: self.workload.clone(),
            principal: self.id.to_string(),
        }
    }

    /// The name in the control plane's certificate. A Service's full name (`name.namespace.svc.<domain>.`) is verified without the
    /// domain of the cluster.
    pub fn server_name(&self) -> &str {
        let Some(absolute) = self.control_plane.strip_suffix('.') else {
            return &self.control_plane;
        };
        match absolute.find(".svc.") {
            Some(at) => absolute.get(..at + ".svc".len()).unwrap_or(absolute),
            None => absolute,
        }
    }

    /// The control plane's address, where it is one rather than a name.
    pub fn control_plane_ip(&self) -> Option<IpAddr> {
        self.control_plane.parse().ok()
    }
}

/// The agent's own level for a level in Envoy's words.
pub fn log_level(envoy: &str) -> &'static str {
    match envoy {
        "trace" => "trace",
        "debug" => "debug",
        "info" => "info",
        "error" | "critical" => "error",
        "off" => "off",
        _ => "warn",
    }
}

struct Env<'a, F>(&'a F);

impl<F: Fn(&str) -> Option<String>> Env<'_, F> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn need(&self, name: &'static str) -> Result<String, SettingsError> {
        self.get(name).ok_or(SettingsError::Missing(name))
    }

    fn or(&self, name: &str, default: &str) -> String {
        self.get(name).unwrap_or_else(|| default.to_owned())
    }

    fn number<T: std::str::FromStr>(
        &self,
        name: &'static str,
        default: T,
    ) -> Result<T, SettingsError> {
        match self.get(name) {
            Some(value) => value.parse().map_err(|_| bad(name, &value, "use a number")),
            None => Ok(default),
        }
    }

    fn host(&self, name: &'static str) -> Result<String, SettingsError> {
        let value = self.need(name)?;
        let bare = value
            .strip_prefix('[')
            .and_then(|v| v.strip_suffix(']'))
            .unwrap_or(&value);
        let dns = bare
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if dns || bare.parse::<IpAddr>().is_ok() {
            Ok(bare.to_owned())
        } else {
            Err(bad(
                name,
                &value,
                "use a DNS name or an address, without a port",
            ))
        }
    }

    fn addresses(
        &self,
        name: &'static str,
        default: &str,
    ) -> Result<Vec<SocketAddr>, SettingsError> {
        let value = self.or(name, default);
        let parse = |one: &str| one.trim().parse();
        value
            .split(',')
            .map(parse)
            .collect::<Result<_, _>>()
            .map_err(|_| bad(name, &value, "use address:port, separated by commas"))
    }
}

fn bad(name: &'static str, value: &str, fix: &'static str) -> SettingsError {
    SettingsError::Bad {
        name,
        value: value.chars().take(200).collect(),
        fix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: [(&str, &str); 7] = [
        ("HEDDLE_CONTROL_PLANE", "heddle-operator.heddle-system.svc"),
        ("HEDDLE_TRUST_BUNDLE", "-----BEGIN CERTIFICATE-----"),
        ("HEDDLE_TRUST_DOMAIN", "cluster.local"),
        ("HEDDLE_TOKEN_FILE", "/t"),
        ("POD_NAME", "cart-0"),
        ("POD_NAMESPACE", "shop"),
        ("POD_SERVICE_ACCOUNT", "cart"),
    ];

    fn with(name: &str, value: &str) -> Result<Settings, SettingsError> {
        Settings::from_env(|asked| {
            let known = SOUND
                .iter()
                .find(|(n, _)| *n == asked)
                .map(|(_, v)| (*v).to_owned());
            if asked == name {
                Some(value.to_owned())
            } else {
                known
            }
        })
    }

    #[test]
    fn defaults_are_those_of_the_architecture() {
        let settings = with("", "").unwrap();
        assert_eq!((settings.ads_port, settings.ca_port), (15010, 15011));
        assert_eq!(
            settings.ready,
            [
                "0.0.0.0:15021".parse().unwrap(),
                "[::]:15021".parse().unwrap()
            ]
        );
        assert_eq!(settings.node_id(), "shop/cart-0");
        assert_eq!(settings.workload, "cart-0");
        let labels = with("HEDDLE_WORKLOAD", "cart").unwrap().labels();
        assert_eq!(
            labels
                .each_ref()
                .map(|(name, value)| (*name, value.as_str())),
            [
                ("NS", "shop"),
                ("WL", "cart"),
                ("ID", "spiffe://cluster.local/ns/shop/sa/cart"),
                (
                    "OTEL_RESOURCE_ATTRIBUTES",
                    "service.name=cart,service.namespace=shop,k8s.namespace.name=shop,k8s.pod.name=cart-0"
                )
            ]
        );
        for (host, name) in [
            ("heddle.heddle-system.svc", "heddle.heddle-system.svc"),
            (
                "heddle.heddle-system.svc.corp.example.",
                "heddle.heddle-system.svc",
            ),
            ("control.example.", "control.example"),
        ] {
            let settings = with("HEDDLE_CONTROL_PLANE", host).unwrap();
            assert_eq!(
                (settings.control_plane.as_str(), settings.server_name()),
                (host, name)
            );
        }
        assert_eq!(
            with("HEDDLE_CONTROL_PLANE", "[::1]").unwrap().control_plane,
            "::1"
        );
    }

    #[test]
    fn a_missing_or_invalid_variable_is_named() {
        for (name, _) in SOUND {
            let error = with(name, "").unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        for (name, value) in [
            ("HEDDLE_ADS_PORT", "70000"),
            ("HEDDLE_CONTROL_PLANE", "host:15010"),
            ("HEDDLE_CONTROL_PLANE", "https://host"),
            ("HEDDLE_LOG_LEVEL", "loud"),
            ("HEDDLE_READY_ADDR", "15021"),
            ("HEDDLE_TRUST_BUNDLE", "/a/file"),
            ("HEDDLE_DRAIN_SECONDS", "-1"),
            ("HEDDLE_GRACE_SECONDS", "soon"),
            ("POD_NAMESPACE", "a/b"),
        ] {
            let error = with(name, value).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
