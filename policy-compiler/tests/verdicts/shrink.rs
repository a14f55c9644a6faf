//! Smaller cases that still fail.

use super::random::{Call, Group, RuleSpec};

/// Every case that has a little less than this one, which has one request.
pub fn smaller(case: &Group) -> Vec<Group> {
    let with = |edit: &dyn Fn(&mut Group)| {
        let mut smaller = case.clone();
        edit(&mut smaller);
        smaller
    };
    let mut all = Vec::new();
    for index in 0..case.rules.len() {
        if case.rules.len() > 1 {
            all.push(with(&|c| {
                c.rules.remove(index);
            }));
        }
        let lists: [fn(&mut RuleSpec) -> &mut Vec<String>; 5] = [
            |r| &mut r.identities,
            |r| &mut r.namespaces,
            |r| &mut r.blocks,
            |r| &mut r.methods,
            |r| &mut r.paths,
        ];
        for list in lists {
            for item in 0..list(&mut case.rules[index].clone()).len() {
                all.push(with(&|c| {
                    list(&mut c.rules[index]).remove(item);
                }));
            }
        }
        if case.rules[index].audit {
            all.push(with(&|c| c.rules[index].audit = false));
        }
        if case.rules[index].crowd {
            all.push(with(&|c| c.rules[index].crowd = false));
        }
        if case.rules[index].filled {
            all.push(with(&|c| c.rules[index].filled = false));
        }
        for header in 0..case.rules[index].headers.len() {
            all.push(with(&|c| {
                c.rules[index].headers.remove(header);
            }));
        }
    }
    all.extend(smaller_calls(&case.calls[0]).into_iter().map(|call| {
        with(&|c| {
            c.calls = vec![call.clone()];
        })
    }));
    all
}

fn smaller_calls(call: &Call) -> Vec<Call> {
    let mut all = Vec::new();
    let mut push = |edit: &dyn Fn(&mut Call)| {
        let mut smaller = call.clone();
        edit(&mut smaller);
        all.push(smaller);
    };
    if call.peer != 0 {
        push(&|c| c.peer = 0);
    }
    let Some(http) = &call.http else { return all };
    let mut edit = |edit: &dyn Fn(&mut super::random::Http)| {
        push(&|c| c.http.iter_mut().for_each(edit));
    };
    if http.version2 {
        edit(&|h| h.version2 = false);
    }
    if http.method != "GET" {
        edit(&|h| h.method = "GET".to_owned());
    }
    if http.host != "web" {
        edit(&|h| h.host = "web".to_owned());
    }
    for header in 0..http.headers.len() {
        edit(&|h| {
            h.headers.remove(header);
        });
    }
    for (at, _) in http.path.char_indices().skip(1) {
        edit(&|h| {
            h.path.remove(at);
        });
    }
    all
}
