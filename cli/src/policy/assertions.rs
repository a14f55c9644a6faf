//! Assertions about calls, as files have them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use heddle_policy_compiler::NamespacedName;
use heddle_policy_compiler::authz::{Operation, PathPattern};
use heddle_policy_compiler::world::{Port, SpiffeId};
use serde::Deserialize;

use crate::sources;
use crate::why::is_token;

/// The largest file, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// The most assertions of all files.
const MAX_TESTS: usize = 10_000;

/// A file of assertions.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tests: Vec<Test>,
}

/// One assertion: exactly one of `allow`, `deny` and `never`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Test {
    /// The name of the assertion.
    #[serde(default)]
    pub name: Option<String>,
    /// A call that reaches the application at every server.
    #[serde(default)]
    pub allow: Option<Call>,
    /// A call that every server denies.
    #[serde(default)]
    pub deny: Option<Call>,
    /// Calls of which no server lets any pass, with any content.
    #[serde(default)]
    pub never: Option<Never>,
}

/// One call.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The workload that calls, or one of its pods: `namespace/name`.
    pub from: String,
    /// The service: `namespace/name`.
    pub to: String,
    /// The port of the service; may be left out if it has one only.
    #[serde(default)]
    pub port: Option<u16>,
    /// The method.
    #[serde(default = "get")]
    pub method: String,
    /// The path with query.
    #[serde(default = "root")]
    pub path: String,
    /// Headers by name.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

/// All calls of some callers to some servers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Never {
    /// The callers.
    pub from: From,
    /// The servers and requests.
    pub to: To,
}

/// Callers: those that one of the lists names; without any, all callers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct From {
    /// Workloads, as `namespace/name`.
    pub workloads: Vec<String>,
    /// Namespaces: every identity in them, also those that no workload has yet.
    pub namespaces: Vec<String>,
    /// Identities, as `namespace/account` or as full SPIFFE ids.
    pub identities: Vec<String>,
    /// Callers without a certificate.
    pub plain_text: bool,
    /// Callers that are left out.
    pub except: Option<Box<From>>,
}

/// Servers: those that one of the lists names; without any, all. Only requests with one of the methods and paths.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct To {
    /// Services: the workloads that they select, and the ports to which they lead.
    pub services: Vec<String>,
    /// Workloads, as `namespace/name`.
    pub workloads: Vec<String>,
    /// Namespaces.
    pub namespaces: Vec<String>,
    /// Ports of the workloads; without any, all.
    pub ports: Vec<u16>,
    /// Methods; without any, all.
    pub methods: Vec<String>,
    /// Paths, as in an `AuthPolicy`: exact, or a prefix with a trailing `*`; without any, all.
    pub paths: Vec<String>,
}

/// An assertion with its place.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The file.
    pub file: String,
    /// Its number in the file, counted from 1.
    pub number: usize,
    /// The assertion.
    pub test: Test,
}

impl Placed {
    /// The name, or a description of the test in its place.
    pub fn name(&self) -> String {
        let Test {
            name,
            allow,
            deny,
            never,
        } = &self.test;
        let of = |verb: &str, call: &Call| {
            let Call {
                from,
                to,
                port,
                method,
                path,
                ..
            } = call;
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            format!("{verb} {from} {method} {to}{port}{path}")
        };
        match (name, allow, deny, never) {
            (Some(name), ..) => name.clone(),
            (_, Some(call), ..) => of("allow", call),
            (_, _, Some(call), _) => of("deny", call),
            (_, _, _, Some(_)) | (_, _, _, None) => format!("never, number {}", self.number),
        }
    }
}

/// Reads files of assertions; a folder stands for its files and those of its folders, in their order.
///
/// # Errors
/// A file cannot be read, or an assertion is not one.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Placed>> {
    let mut all = Vec::new();
    for path in paths {
        for file in files(path)? {
            let name = file.display().to_string();
            let text = text(&file).with_context(|| format!("cannot read {name}"))?;
            let read: File = serde_saphyr::from_str(&text).with_context(|| {
                format!("{name} is not a file of assertions; write `tests:` with a list of allow, deny and never")
            })?;
            for (index, test) in read.tests.into_iter().enumerate() {
                let number = index + 1;
                check(&test).with_context(|| format!("{name}: test {number}"))?;
                let file = name.clone();
                all.push(Placed { file, number, test });
            }
        }
    }
    match all.len() {
        0 => bail!("there is no assertion to test; name a file with -f"),
        many if many > MAX_TESTS => {
            bail!("{many} assertions are too many; use at most {MAX_TESTS}")
        }
        _ => Ok(all),
    }
}

fn text(file: &Path) -> Result<String> {
    if file.as_os_str() == "-" {
        return Ok(std::io::read_to_string(std::io::stdin())?);
    }
    let size = std::fs::metadata(file)?.len();
    anyhow::ensure!(
        size <= MAX_FILE,
        "it has {size} bytes; use at most {MAX_FILE}"
    );
    Ok(std::fs::read_to_string(file)?)
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.as_os_str() == "-" {
        return Ok(vec![path.to_owned()]);
    }
    let mut links = Vec::new();
    let found = sources::files(path, &mut links)?;
    if let Some(link) = links.first() {
        let link = link.display();
        bail!("{link} is a link to a folder, which is not followed; name the folder itself")
    }
    Ok(found)
}

fn check(test: &Test) -> Result<()> {
    let calls = test.allow.iter().chain(&test.deny);
    let count = calls.clone().count() + usize::from(test.never.is_some());
    if count != 1 {
        bail!("{count} of allow, deny and never are there; write exactly one of them");
    }
    for call in calls {
        name("from", &call.from)?;
        name("to", &call.to)?;
        for (header, what) in call
            .headers
            .keys()
            .map(|name| (name, "header"))
            .chain([(&call.method, "method")])
        {
            if !is_token(header) {
                bail!("{header:?} is not a {what}; correct it");
            }
        }
        if !call.path.starts_with('/') {
            bail!("{:?} is not a path; start it with /", call.path);
        }
    }
    if let Some(Never { from, to }) = &test.never {
        from.check()?;
        for text in to.services.iter().chain(&to.workloads) {
            name("to", text)?;
        }
        to.ports()?;
        to.operation()?;
    }
    Ok(())
}

/// Reads `namespace/name`.
///
/// # Errors
/// The text is not `NAMESPACE/NAME`; the error names the field.
pub fn name(field: &str, text: &str) -> Result<NamespacedName> {
    let parts = text.split_once('/');
    let parts = parts.filter(|(namespace, name)| {
        !namespace.is_empty() && !name.is_empty() && !name.contains('/')
    });
    let (namespace, name) =
        parts.with_context(|| format!("{field}: {text:?} is not NAMESPACE/NAME; correct it"))?;
    Ok(NamespacedName::new(namespace, name))
}

impl From {
    fn check(&self) -> Result<()> {
        for text in &self.workloads {
            name("from.workloads", text)?;
        }
        self.identities("cluster.local")?;
        match &self.except {
            Some(except) if except.except.is_some() => {
                bail!("from.except has an except of its own; leave it out")
            }
            Some(except) => except.check(),
            None => Ok(()),
        }
    }

    /// The full ids of the identities.
    ///
    /// # Errors
    /// An identity is neither a SPIFFE id nor `NAMESPACE/NAME`.
    pub fn identities(&self, trust_domain: &str) -> Result<Vec<SpiffeId>> {
        let full = |text: &String| match SpiffeId::parse(text) {
            Some(id) => Ok(id),
            None => {
                let name = name("from.identities", text)?;
                Ok(SpiffeId::new(trust_domain, &name.namespace, &name.name))
            }
        };
        self.identities.iter().map(full).collect()
    }

    /// Whether no list names a caller, so that all are meant.
    pub fn is_all(&self) -> bool {
        self.workloads.is_empty()
            && self.namespaces.is_empty()
            && self.identities.is_empty()
            && !self.plain_text
    }
}

impl To {
    /// The ports.
    ///
    /// # Errors
    /// A number is 0, which is not a port.
    pub fn ports(&self) -> Result<Vec<Port>> {
        let port = |number: &u16| {
            let port = Port::try_from(i32::from(*number)).ok();
            port.with_context(|| format!("{number} is not a port; use a number from 1 to 65535"))
        };
        self.ports.iter().map(port).collect()
    }

    /// The methods and paths, by the rules of an `AuthPolicy`.
    ///
    /// # Errors
    /// No request has such a method or path.
    pub fn operation(&self) -> Result<Operation> {
        let lower = |method: &String| method.bytes().any(|byte| byte.is_ascii_lowercase());
        let mut methods = self.methods.iter();
        if let Some(method) = methods.find(|method| !is_token(method) || lower(method)) {
            bail!("to.methods: {method:?} is not a method; write it in capitals, such as GET");
        }
        let pattern = |path: &String| {
            PathPattern::parse(path).with_context(|| {
                format!("to.paths: {path:?} is not a path; start it with /, use * only at the end, and leave out ? and #")
            })
        };
        Ok(Operation {
            methods: self
                .methods
                .iter()
                .map(|method| method.as_str().into())
                .collect(),
            paths: self.paths.iter().map(pattern).collect::<Result<_>>()?,
            ..Operation::default()
        })
    }
}
