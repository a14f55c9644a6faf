//! The objects that README.md shows are the samples: they replace each other, and README's calls work with both.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests may panic")]

mod harness;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

type Objects = BTreeMap<(String, String), Value>;

fn key(object: &Value) -> (String, String) {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    let (kind, name) = (text("/kind").unwrap(), text("/metadata/name").unwrap());
    (kind.to_owned(), name.to_owned())
}

fn parse(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

#[test]
fn objects_of_the_readme_equal_the_samples_of_their_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut samples = Objects::new();
    let files = [
        "auth_policy.yaml",
        "traffic_split.yaml",
        "traffic_split_testers.yaml",
        "mesh.yaml",
    ];
    for file in files {
        let text = std::fs::read_to_string(root.join("config/samples").join(file)).unwrap();
        samples.extend(
            parse(&text)
                .into_iter()
                .map(|object| (key(&object), object)),
        );
    }
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let blocks = readme.split("```yaml\n").skip(1);
    let shown: Vec<Value> = blocks
        .flat_map(|block| parse(block.split("```").next().unwrap()))
        .collect();
    assert!(shown.len() >= 2, "README.md shows {} objects", shown.len());
    for object in shown {
        assert_eq!(Some(&object), samples.get(&key(&object)));
    }
}

#[test]
fn the_call_of_the_readme_is_denied_by_the_samples_and_reading_is_allowed() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/samples");
    let files = [
        "namespace.yaml",
        "frontend.yaml",
        "reviews.yaml",
        "mesh.yaml",
        "traffic_split.yaml",
        "auth_policy.yaml",
    ];
    let files = files.map(|file| samples.join(file).to_str().unwrap().to_owned());
    for (method, result) in [
        ("GET", "result     GET / reaches the application\n"),
        ("DELETE", "result     denied with status 403\n"),
    ] {
        let mut args = vec!["why", "--from", "shop/frontend", method, "http://reviews/"];
        args.extend(files.iter().flat_map(|file| ["-f", file]));
        let output = harness::heddle(&args);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(result), "{method}: {text}");
    }
}
