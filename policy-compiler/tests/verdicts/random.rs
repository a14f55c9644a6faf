//! Random rules and requests, near to each other: most requests spell names of some rule.

use serde_json::{Map, Value, json};

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn some(&mut self, most: usize, from: &[&str]) -> Vec<String> {
        let count = self.below(most + 1);
        let mut picked: Vec<String> = (0..count).map(|_| self.pick(from).to_owned()).collect();
        picked.sort();
        picked.dedup();
        picked
    }
}

/// A rule in the words of the API.
#[derive(Clone, Debug, Default)]
pub struct RuleSpec {
    pub deny: bool,
    pub audit: bool,
    pub identities: Vec<String>,
    pub namespaces: Vec<String>,
    pub blocks: Vec<String>,
    pub methods: Vec<String>,
    pub paths: Vec<String>,
    pub ignore_case: Option<bool>,
    /// So many more identities that the rule's conditions come before its callers.
    pub crowd: bool,
    /// So many more paths that the port is beyond its bound of spelled paths.
    pub filled: bool,
    /// Name, kind of match, value.
    pub headers: Vec<(String, String, String)>,
}

impl RuleSpec {
    pub fn json(&self, port: u16) -> Value {
        let mut rule = json!({"action": if self.deny { "Deny" } else { "Allow" }});
        let crowd = (0..60).map(|n| format!("shop/crowd-{n}"));
        let crowd = crowd.filter(|_| self.crowd);
        let identities: Vec<String> = self.identities.iter().cloned().chain(crowd).collect();
        let lists = |lists: &[(&str, &Vec<String>)]| -> Map<String, Value> {
            let full = lists.iter().filter(|(_, list)| !list.is_empty());
            full.map(|(name, list)| ((*name).to_owned(), json!(list)))
                .collect()
        };
        let from = lists(&[
            ("identities", &identities),
            ("namespaces", &self.namespaces),
            ("ipBlocks", &self.blocks),
        ]);
        let filler = (0..60).map(|n| format!("/{}/{n}", "filler".repeat(50)));
        let filler = filler.filter(|_| self.filled);
        let paths: Vec<String> = self.paths.iter().cloned().chain(filler).collect();
        let mut to = lists(&[("methods", &self.methods), ("paths", &paths)]);
        to.insert("ports".to_owned(), json!([port]));
        if let Some(ignore) = self.ignore_case {
            to.insert("ignoreCase".to_owned(), json!(ignore));
        }
        let headers = self
            .headers
            .iter()
            .map(|(name, kind, value)| match &**kind {
                "present" => json!({"name": name, "present": value == "true"}),
                kind => json!({"name": name, kind: value}),
            });
        let headers: Vec<Value> = headers.collect();
        if !headers.is_empty() {
            to.insert("headers".to_owned(), json!(headers));
        }
        if !from.is_empty() {
            rule["from"] = json!(from);
        }
        rule["to"] = json!(to);
        rule
    }
}

/// A request, or a connection of bytes.
#[derive(Clone, Debug)]
pub struct Call {
    /// Place in the list of peers.
    pub peer: usize,
    pub http: Option<Http>,
}

#[derive(Clone, Debug)]
pub struct Http {
    pub version2: bool,
    pub method: String,
    pub path: String,
    pub host: String,
    pub headers: Vec<(String, String)>,
}

/// Rules of one port with requests to it.
#[derive(Clone, Debug)]
pub struct Group {
    pub rules: Vec<RuleSpec>,
    pub calls: Vec<Call>,
}

const PATHS: [&str; 14] = [
    "/admin",
    "/admin/*",
    "/adm*",
    "/a/b",
    "/a/b/",
    "/",
    "/*",
    "/a-b_c/*",
    "/%61dmin",
    "/.git/*",
    "/\u{fc}",
    "/a%2Fb",
    "/a;v=1",
    "/a//b/./c*",
];
const NAMES: [&str; 6] = ["x-a", "x-a-b", "cookie", "host", ":authority", "user-agent"];
/// Headers that a sidecar removes or sets before it asks rules.
const OF_SIDECARS: [&str; 9] = [
    "keep-alive",
    "proxy-connection",
    "te",
    "x-envoy-force-trace",
    "x-envoy-internal",
    "x-envoy-max-retries",
    "x-envoy-retry-on",
    "x-envoy-ip-tags",
    "x-forwarded-client-cert",
];
const VALUES: [&str; 7] = ["gold", "a=b", "web.shop", "web.shop:80", "a,b", "", "G.(x"];
const EXPRESSIONS: [&str; 8] = [
    "g.*d",
    "a|b",
    "^evil$",
    "[0-9]+",
    "x{2,3}",
    "(?i)gold",
    "[^,]*b",
    "bad$|^evil$|a[$]",
];

pub fn group(random: &mut Random, peers: usize, calls: usize, http: bool) -> Group {
    let most = if random.chance(15) { 9 } else { 3 };
    let count = 1 + random.below(most);
    let rules: Vec<RuleSpec> = (0..count).map(|_| rule(random)).collect();
    let calls = (0..calls).map(|_| Call {
        peer: random.below(peers),
        http: http.then(|| request(random, &rules)),
    });
    let calls = calls.collect();
    Group { rules, calls }
}

fn rule(random: &mut Random) -> RuleSpec {
    // Rules with one field differ most in verdicts; the others mix fields.
    let (callers, methods, paths, headers) = match random.below(8) {
        0 | 1 => (false, false, false, true),
        2 | 3 => (false, false, true, false),
        4 => (false, true, false, false),
        5 => (true, false, false, false),
        _ => (
            random.chance(50),
            random.chance(35),
            random.chance(60),
            random.chance(35),
        ),
    };
    let mut rule = RuleSpec {
        deny: random.chance(65),
        audit: random.chance(20),
        ..RuleSpec::default()
    };
    if callers {
        rule.identities = random.some(2, &["shop/client", "other/x", "shop/nobody"]);
        rule.crowd = random.chance(15);
        rule.namespaces = random.some(1, &["shop", "other", "sho"]);
        rule.blocks = random.some(
            1,
            &["127.78.1.0/24", "127.78.1.2/32", "127.0.0.0/8", "fd00::/8"],
        );
    }
    if methods {
        rule.methods = random.some(2, &["GET", "DELETE", "PURGE", "X-MOVE"]);
    }
    if paths {
        let most = if random.chance(15) { 9 } else { 3 };
        rule.paths = random.some(most, &PATHS);
        rule.filled = random.chance(8);
        rule.ignore_case = random.pick(&[None, None, Some(true), Some(false)]);
    }
    if headers {
        let count = 1 + random.below(2);
        rule.headers = (0..count).map(|_| header(random)).collect();
    }
    rule
}

fn header(random: &mut Random) -> (String, String, String) {
    if random.chance(15) {
        let name = random.pick(&OF_SIDECARS);
        let (kind, value) = match random.below(4) {
            0 => ("present", random.pick(&["true", "false"])),
            _ if name == "te" => ("exact", "trailers"),
            _ => ("exact", random.pick(&VALUES)),
        };
        return (name.to_owned(), kind.to_owned(), value.to_owned());
    }
    let name = random.pick(&NAMES).to_owned();
    let (kind, value) = match random.below(6) {
        0 | 1 => ("exact", random.pick(&VALUES)),
        2 => ("prefix", random.pick(&["go", "a=", "web.", "a,b", "x"])),
        3 | 4 => ("regex", random.pick(&EXPRESSIONS)),
        _ => ("present", random.pick(&["true", "false"])),
    };
    (name, kind.to_owned(), value.to_owned())
}

fn request(random: &mut Random, rules: &[RuleSpec]) -> Http {
    let version2 = random.chance(35);
    let method = match random.below(10) {
        0 if version2 => random.pick(&["delete", "Delete", "gET", "PURGE", "x-move", "X-MOVE"]),
        0..=2 => "DELETE",
        3 => "POST",
        _ => "GET",
    };
    let paths: Vec<&str> = rules.iter().flat_map(|r| &r.paths).map(|p| &**p).collect();
    let base = if paths.is_empty() || random.chance(10) {
        random.pick(&["/", "/x", "/admin", "/public/a"])
    } else {
        random.pick(&paths)
    };
    let mut path = base.replace('*', random.pick(&["", "x", "/", "in"]));
    for _ in 0..random.below(4) {
        path = mutate(random, &path, version2);
    }
    let hosts = [
        "web",
        "web.shop",
        "WEB.shop",
        "web.shop:80",
        "web.shop.",
        "web.shop.:80",
        "web.shop:x",
        "%77eb.shop",
        "gold",
    ];
    let mut headers = lines(random, rules, version2);
    // Envoy joins the lines of this header and drops an empty one. Then neither the policy nor the application sees it.
    headers.retain(|(name, value)| name != "user-agent" || !value.trim().is_empty());
    Http {
        version2,
        method: method.to_owned(),
        path,
        host: random.pick(&hosts).to_owned(),
        headers,
    }
}

const INSERTED: [&str; 14] = [
    "/", "/.", "/;x", ";y=1", "%2f", "\\", "%5C", "/x/..", "/%2e%2E", "/..;/", "%2561", "%20/",
    ".", "/;",
];
const APPENDED: [&str; 22] = [
    ".",
    "%20",
    "%00",
    "/",
    "/;x",
    "%3f",
    "%23x",
    "x",
    "/x",
    "?q=/admin",
    "/..",
    "/../x",
    "%c0%af",
    "%ef%bc%8f",
    "%u002f",
    "%09",
    ";",
    "%",
    "/.",
    "%ef%bc%88",
    "?",
    "%2e",
];

/// Spells a path otherwise, or makes it another.
fn mutate(random: &mut Random, path: &str, version2: bool) -> String {
    let ascii: Vec<usize> = path
        .char_indices()
        .map(|(at, _)| at)
        .filter(|at| *at > 0)
        .collect();
    let at = if ascii.is_empty() {
        1
    } else {
        random.pick(&ascii)
    };
    let (before, after) = path.split_at(at.min(path.len()));
    let first = after.chars().next().filter(char::is_ascii);
    let rest = first.map_or(after, |_| &after[1..]);
    match (random.below(5), first) {
        (0, Some(first)) => {
            let hexadecimal = format!("%{:02x}", u32::from(first));
            let raised = random.chance(50);
            let escape = if raised {
                hexadecimal.to_uppercase()
            } else {
                hexadecimal
            };
            format!("{before}{escape}{rest}")
        }
        (1, Some(first)) if first.is_ascii_lowercase() => {
            format!("{before}{}{rest}", first.to_ascii_uppercase())
        }
        (1, Some(first)) => format!("{before}{}{rest}", first.to_ascii_lowercase()),
        (2, _) => format!(
            "/{}{path}",
            random.pick(&["", ".", ";", ";x", "%3b", "x/..", "%20", "/x", "%5cx"])
        ),
        (3, _) => format!("{before}{}{after}", random.pick(&INSERTED)),
        _ if version2 && random.chance(20) => format!("{path}\u{e9}"),
        _ => format!("{path}{}", random.pick(&APPENDED)),
    }
}

fn lines(random: &mut Random, rules: &[RuleSpec], version2: bool) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let known: Vec<_> = rules.iter().flat_map(|r| &r.headers).collect();
    let hosts = ["host", ":authority"];
    for (name, _, value) in known.into_iter().filter(|(n, _, _)| !hosts.contains(&&**n)) {
        if random.chance(40) {
            // The plain line, alone or with another one.
            lines.push((name.clone(), matching(value)));
            if random.chance(40) {
                let at = lines.len() - random.below(2);
                lines.insert(at, (name.clone(), "evil".to_owned()));
            }
            continue;
        }
        for _ in 0..random.below(3) {
            let name = match random.below(5) {
                0 => name.replace('-', "_"),
                1 => name.replacen('-', "_", 1),
                _ => name.clone(),
            };
            let base = match random.below(4) {
                0 => "gold",
                1 => random.pick(&["evil", "7", "xx", "a", "b", "GOLD", "a=b"]),
                _ => value,
            };
            let value = match random.below(9) {
                0 => format!("{base},z"),
                1 => format!("z, {base}"),
                2 if version2 => format!(" {base}\t"),
                3 => format!("{base}z"),
                4 => format!("{base}; c=d"),
                5 => format!("\u{e9},{base}"),
                _ => base.to_owned(),
            };
            lines.push((name, value));
        }
    }
    lines
}

/// A value that the pattern matches, for all kinds of patterns.
fn matching(pattern: &str) -> String {
    let value = match pattern {
        "g.*d" | "(?i)gold" | "go" => "gold",
        "a|b" => "a",
        "^evil$" | "bad$|^evil$|a[$]" => "evil",
        "[0-9]+" => "7",
        "x{2,3}" => "xx",
        "[^,]*b" => "zb",
        "true" | "false" => "z",
        other => other,
    };
    value.to_owned()
}
