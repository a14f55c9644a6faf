//! Each package builds by itself (`cargo test -p NAME`), not only with the features that others in the workspace ask for.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::repo::{Repo, cargo, text};

/// A library that builds only with a feature of the user's choice.
struct Needs {
    library: &'static str,
    feature: &'static str,
    fix: &'static str,
}

const NEEDS: &[Needs] = &[Needs {
    library: "k8s-openapi",
    feature: "v1_",
    fix: "add `k8s-openapi.workspace = true` to its dev-dependencies",
}];

pub fn check(repo: &Repo) -> Result<Vec<String>> {
    let listed = repo.output(
        &cargo(),
        &["metadata", "--format-version", "1", "--no-deps", "--locked"],
    )?;
    let metadata: Value = serde_json::from_str(&listed)?;
    let packages = metadata.get("packages").and_then(Value::as_array);
    let mut findings = Vec::new();
    for package in packages.context("cargo metadata: packages")? {
        let name = package.get("name").and_then(Value::as_str);
        let name = name.context("cargo metadata: a package without name")?;
        findings.extend(missing(name, &features(repo, name)?));
    }
    Ok(findings)
}

/// A line for each library under a package: its name, version and features, as of a build of this package with its tests.
fn features(repo: &Repo, package: &str) -> Result<String> {
    let arguments = [
        "tree",
        "--locked",
        "-p",
        package,
        "-e",
        "normal,build,dev",
        "--prefix",
        "none",
        "--format",
        "{p} {f}",
    ];
    let mut command = repo.command(&cargo(), &arguments);
    // A build may unify the features of the workspace; here the package counts alone.
    command.env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION");
    text(command)
}

fn missing(package: &str, tree: &str) -> Vec<String> {
    let without = |need: &&Needs| {
        let named = format!("{} v", need.library);
        tree.lines()
            .filter(|line| line.starts_with(&named))
            .any(|line| {
                !line
                    .split([' ', ','])
                    .any(|word| word.starts_with(need.feature))
            })
    };
    let finding = |need: &Needs| {
        format!(
            "{package} alone builds {} without a feature {}*: {}",
            need.library, need.feature, need.fix
        )
    };
    NEEDS.iter().filter(without).map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn a_package_without_a_version_of_kubernetes_is_named() {
        let tree = "heddle-x v0.1.0 (path) \nk8s-openapi v0.28.0 default,schemars,std\n";
        assert_eq!(missing("heddle-x", tree).len(), 1);
    }

    #[test]
    fn a_package_with_a_version_or_without_the_library_is_fine() {
        assert!(missing("x", "k8s-openapi v0.28.0 default,v1_34 (*)\n").is_empty());
        assert!(missing("x", "kube v4.2.0 default\n").is_empty());
    }
}
