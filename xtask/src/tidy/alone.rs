//! Each package asks for a version of Kubernetes by itself, so that `cargo test -p NAME` builds: k8s-openapi needs one, and others in the
//! workspace may not be there to ask for it.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::repo::{Repo, tree_alone};

/// Returns a finding for each package that builds k8s-openapi without a version. `packages` are those of the workspace, as `cargo metadata`
/// has them.
///
/// # Errors
/// Cargo does not resolve a package, or a package has no name.
pub fn check(repo: &Repo, packages: &[Value]) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for package in packages {
        let name = package.get("name").and_then(Value::as_str);
        let name = name.context("cargo metadata: a package without name")?;
        let tree = tree_alone(repo, name, "normal,build,dev", "{p} {f}")?;
        findings.extend(missing(name, &tree));
    }
    Ok(findings)
}

/// `tree` has a line for each library: name, version, features.
fn missing(package: &str, tree: &str) -> Option<String> {
    let mut uses = tree
        .lines()
        .filter(|line| line.starts_with("k8s-openapi v"));
    let has_version = |line: &str| line.split([' ', ',']).any(|word| word.starts_with("v1_"));
    uses.any(|line| !has_version(line)).then(|| {
        format!(
            "{package} alone builds k8s-openapi without a feature v1_*; add `k8s-openapi.workspace = true` to its dev-dependencies"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn a_package_without_a_version_of_kubernetes_is_named() {
        let tree = "heddle-x v0.1.0 (path) \nk8s-openapi v0.28.0 default,schemars,std\n";
        assert!(missing("heddle-x", tree).is_some_and(|text| text.starts_with("heddle-x alone")));
    }

    #[test]
    fn a_package_with_a_version_or_without_the_library_is_fine() {
        assert!(missing("x", "k8s-openapi v0.28.0 default,v1_34 (*)\n").is_none());
        assert!(missing("x", "kube v4.2.0 default\n").is_none());
    }
}
