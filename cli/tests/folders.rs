//! Folders as sources: each file is read once, and a file that cannot be read hides no other.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests may panic")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: NAME, namespace: shop}\nspec: {clusterIP: 10.96.1.1, ports: [{name: http, port: 80}]}\n";
const POLICY: &str = "apiVersion: heddle.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {name: NAME, namespace: shop}\nspec: {rules: [{action: Deny}]}\n";

fn analyze(folder: &Path) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_heddle"))
        .args(["analyze", "-f", "."])
        .current_dir(folder)
        .env("KUBECONFIG", "/does/not/exist")
        .output()
        .unwrap();
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output, String::from_utf8(text).unwrap())
}

fn write(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn folders_that_link_to_each_other_are_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "a/service.yaml", &SERVICE.replace("NAME", "cart"));
    write(root, "b/service.yaml", &SERVICE.replace("NAME", "pay"));
    for (target, link) in [("..", "a/up"), ("../a", "b/a"), (".", "b/self")] {
        symlink(target, root.join(link)).unwrap();
    }
    // A link to a file is a file.
    write(root, "real.txt", &SERVICE.replace("NAME", "linked"));
    symlink("real.txt", root.join("linked.yaml")).unwrap();
    let (output, text) = analyze(root);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("Duplicate"), "{text}");
    for link in ["./a/up", "./b/a", "./b/self"] {
        let note = format!("info: Document {link}: a link to a folder is not followed");
        assert!(text.contains(&note), "{text}");
    }
}

#[test]
fn an_object_in_two_files_is_reported_with_both_places() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "base/cart.yaml",
        &POLICY.replace("NAME", "cart"),
    );
    let overlay = format!("# overlay\n---\n{}", POLICY.replace("NAME", "cart"));
    write(folder.path(), "overlay/cart.yaml", &overlay);
    let (_, text) = analyze(folder.path());
    let warning = "warning: AuthPolicy shop/cart: the object is in ./base/cart.yaml:1 and in ./overlay/cart.yaml:2; the latter counts";
    assert!(text.contains(warning), "{text}");
}

#[test]
fn a_file_that_is_not_text_is_one_error_and_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("binary.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    write(
        folder.path(),
        "policy.yaml",
        &POLICY.replace("NAME", "cart"),
    );
    let (output, text) = analyze(folder.path());
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("error: Document ./binary.yaml: the file cannot be read"),
        "{text}"
    );
    assert!(text.contains("1 policy object"), "{text}");
}

#[test]
fn kinds_without_a_meaning_for_the_mesh_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: NAME, namespace: shop}\n";
    let maps = ["one", "two"]
        .map(|name| map.replace("NAME", name))
        .join("---\n");
    write(folder.path(), "maps.yaml", &maps);
    let (output, text) = analyze(folder.path());
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("not read, for the mesh does not use them: 2 ConfigMap"),
        "{text}"
    );
}

/// A selector and the labels of a split's backend, in a folder with or without the workloads of the namespace.
#[test]
fn a_folder_without_the_workloads_says_what_was_not_compared_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec: {clusterIP: 10.96.1.1, selector: {app: cart}, ports: [{name: http, port: 80}]}\n";
    write(root, "service.yaml", service);
    let policy = POLICY.replace("rules:", "selector: {matchLabels: {app: crat}}, rules:");
    write(root, "policy.yaml", &policy.replace("NAME", "cart"));
    let split = "apiVersion: heddle.dev/v1alpha1\nkind: TrafficSplit\nmetadata: {name: cart, namespace: shop}\nspec: {service: cart, backends: [{labels: {version: v3}, weight: 1}]}\n";
    write(root, "split.yaml", split);
    let (_, text) = analyze(root);
    let policy =
        "info: AuthPolicy shop/cart: spec.selector: the files have no workload of namespace shop";
    let split = "info: TrafficSplit shop/cart: spec.backends[0].labels: the files have no workload of service shop/cart";
    assert!(text.contains(policy) && text.contains(split), "{text}");

    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: cart, namespace: shop}\nspec: {selector: {matchLabels: {app: cart}}, template: {metadata: {labels: {app: cart, version: v1}}, spec: {containers: [{name: app, image: app}]}}}\n";
    write(root, "deployment.yaml", deployment);
    let (_, text) = analyze(root);
    assert!(!text.contains("the files have no workload"), "{text}");
    assert!(text.contains("is that meant?"), "{text}");
    assert!(text.contains("has the labels version=v3"), "{text}");
}
