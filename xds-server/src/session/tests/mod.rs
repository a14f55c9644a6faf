//! Scripts: each line is an event or its expected result, so a rule of the protocol is a few lines of text.
//!
//! ```text
//! view C:a=1 E:a=1 R:r=1<C:a,E:a absent=dst|x       a new view, a part for each resource; `<` lists the requirements
//!                                                   a version that begins with `none`: endpoints without an address
//! > C sub=*,a unsub=b has=a:1 nonce=1 nack=text     an incremental request
//! > C names=a,b nonce=1 nack=text                   a state-of-the-world request
//! < C#1 a=1 -b                                      a response: nonce, resources, removals
//! resynced                                          the client has reported all that it holds
//! late                                              a call of `end_route_waits`
//! holds C:a=1                                       the resources that the client holds
//! unacknowledged R:r rejected 1 (text), R:s          the resources of the view that it lacks
//! wanted dst|x                                      the on-demand names
//! learned dst|x                                     the listeners learned by use
//! ```
//! Responses that no `<` line expects fail the script.

mod delta;
mod endpoints;
mod model;
mod property;
mod rejections;
mod requirements;
mod sotw;

use std::collections::VecDeque;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc::Status;

use super::*;
use crate::resource::Part;

/// Runs a script. A failure names the line.
fn run(flavor: Flavor, name: &str, script: &str) {
    let limits = Limits {
        max_on_demand: 2,
        max_names: 4,
        max_name_len: 16,
        max_response_bytes: 64,
        ..Limits::default()
    };
    let mut session = Session::new(flavor, limits);
    let mut sent: VecDeque<String> = VecDeque::new();
    let mut parts = BTreeMap::new();
    for (number, line) in script
        .lines()
        .map(str::trim)
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
    {
        let at = format!("{name}, line {number}: {line}");
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "<" => {
                assert_eq!(sent.pop_front().as_deref(), Some(rest), "{at}");
                continue;
            }
            "wanted" => {
                assert_eq!(words(session.on_demand().clusters.iter()), rest, "{at}");
                continue;
            }
            "learned" => {
                assert_eq!(
                    words(session.on_demand().reported_listeners.iter()),
                    rest,
                    "{at}"
                );
                continue;
            }
            "holds" => {
                assert_eq!(holds(&session), rest, "{at}");
                continue;
            }
            "unacknowledged" => {
                session.take_sync_states();
                assert_eq!(unacknowledged(&session), rest, "{at}");
                continue;
            }
            _ => assert_eq!(sent, [""; 0], "{at}: not expected before"),
        }
        match verb {
            "resynced" => session.end_resync(),
            "late" => session.end_route_waits(),
            "view" => session.set_view(Arc::new(view(rest, &mut parts))),
            ">" => match (request(&mut session, flavor, rest), rest.contains("fault")) {
                (Ok(_), false) => {}
                (Err(_), true) => continue,
                (outcome, _) => panic!("{at}: {outcome:?}"),
            },
            _ => panic!("{at}: not a verb"),
        }
        sent.extend(session.poll().iter().map(show));
    }
    assert_eq!(sent, [""; 0], "{name}: not expected at the end");
}

fn kind(letter: &str) -> ResourceKind {
    match letter {
        "C" => ResourceKind::Cluster,
        "E" => ResourceKind::Endpoints,
        "L" => ResourceKind::Listener,
        "R" => ResourceKind::Route,
        "X" => ResourceKind::Extension,
        "T" => ResourceKind::Runtime,
        _ => panic!("{letter} is not a kind"),
    }
}

fn letter(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::Cluster => "C",
        ResourceKind::Endpoints => "E",
        ResourceKind::Listener => "L",
        ResourceKind::Route => "R",
        ResourceKind::Extension => "X",
        ResourceKind::Runtime => "T",
    }
}

fn key(text: &str) -> ResourceKey {
    let (letter, name) = text.split_once(':').unwrap();
    ResourceKey::new(kind(letter), name)
}

/// A part for each word; the same word is the same part.
fn view(text: &str, parts: &mut BTreeMap<String, Arc<Part>>) -> View {
    let absent = text
        .split(' ')
        .filter_map(|w| w.strip_prefix("absent="))
        .map(Name::from)
        .collect();
    let words = text
        .split_whitespace()
        .filter(|word| !word.starts_with("absent="));
    let part = |word: &str| {
        let part = parts.entry(word.to_owned()).or_insert_with(|| {
            let resources = Box::new([Arc::new(resource(word))]);
            Arc::new(Part { resources })
        });
        Arc::clone(part)
    };
    View {
        parts: words.map(part).collect(),
        absent,
        since: None,
    }
}

fn resource(word: &str) -> Resource {
    let (what, requires) = word.split_once('<').unwrap_or((word, ""));
    let (name, version) = what.split_once('=').unwrap();
    let requires = requires
        .split(',')
        .filter(|r| !r.is_empty())
        .map(key)
        .collect();
    Resource {
        key: key(name),
        version: version.into(),
        body: what.as_bytes().to_vec().into(),
        requires,
        empty: version.starts_with("none"),
    }
}

fn request(session: &mut Session, flavor: Flavor, text: &str) -> Result<Heard, Fault> {
    let (letter, rest) = text.split_once(' ').unwrap_or((text, ""));
    let type_url = if letter == "?" {
        "type.googleapis.com/x"
    } else {
        kind(letter).type_url()
    }
    .to_owned();
    let (rest, nack) = rest
        .split_once("nack=")
        .map_or((rest, None), |(rest, text)| (rest, Some(text)));
    let field = |name: &str| {
        rest.split(' ')
            .find_map(|word| word.strip_prefix(name))
            .unwrap_or_default()
    };
    let list = |name: &str| {
        field(name)
            .split(',')
            .filter(|n| !n.is_empty())
            .map(String::from)
            .collect::<Vec<_>>()
    };
    let node = Some(Node {
        id: field("node=").to_owned(),
        ..Node::default()
    })
    .filter(|node| !node.id.is_empty());
    let error_detail = nack.map(|text| Status {
        message: text.to_owned(),
        ..Status::default()
    });
    let response_nonce = field("nonce=").to_owned();
    match flavor {
        Flavor::Delta => session.delta_request(&DeltaDiscoveryRequest {
            node,
            type_url,
            resource_names_subscribe: list("sub="),
            resource_names_unsubscribe: list("unsub="),
            initial_resource_versions: list("has=")
                .iter()
                .filter_map(|pair| {
                    pair.split_once(':')
                        .map(|(name, version)| (name.into(), version.into()))
                })
                .collect(),
            response_nonce,
            error_detail,
            ..DeltaDiscoveryRequest::default()
        }),
        Flavor::Sotw => session.sotw_request(&DiscoveryRequest {
            node,
            type_url,
            resource_names: list("names="),
            response_nonce,
            error_detail,
            ..DiscoveryRequest::default()
        }),
    }
}

fn show(push: &Push) -> String {
    let resources = push
        .resources
        .iter()
        .map(|sent| format!(" {}={}", sent.resource.key.name, sent.version));
    let removed = push.removed.iter().map(|name| format!(" -{name}"));
    let content: String = resources.chain(removed).collect();
    format!("{}#{}{content}", letter(push.kind), push.nonce)
}

fn words<'a>(names: impl Iterator<Item = &'a Name>) -> String {
    names.map(|n| &**n).collect::<Vec<_>>().join(" ")
}

fn holds(session: &Session) -> String {
    let of = |kind| {
        let holdings = session.channels.get(kind).holdings();
        let mut held: Vec<_> = holdings
            .filter(|(_, holding)| !holding.gone)
            .map(|(name, holding)| format!("{}:{name}={}", letter(kind), holding.version))
            .collect();
        held.sort();
        held
    };
    let all: Vec<_> = ResourceKind::ALL.into_iter().flat_map(of).collect();
    all.join(" ")
}

fn unacknowledged(session: &Session) -> String {
    let show = |(key, rejection): (ResourceKey, Option<Rejection>)| {
        let rejected = rejection.map(|r| format!(" rejected {} ({})", r.version, r.text));
        let (letter, name) = (letter(key.kind), key.name);
        format!("{letter}:{name}{}", rejected.unwrap_or_default())
    };
    let all: Vec<_> = session.unacknowledged().into_iter().map(show).collect();
    all.join(", ")
}
