//! Checks a tap, and makes the order for agents of it.

use heddle_xds_types::tap::{
    BUILT_IN_HEADERS, HEADERS, MAX_HEADERS, MAX_PATH, MAX_PER_SECOND, MAX_SECONDS, Sides,
    TapCaller, TapOrder, TapRequest, is_secret_name,
};

/// The word for callers without an identity.
const OUTSIDE: &str = "outside";
/// The longest method.
const MAX_METHOD: usize = 32;
/// The longest name of a namespace, a workload or a service account.
const MAX_NAME: usize = 253;

/// Returns the order of a tap, without its number and its time. `accounts` returns the service accounts of a workload, by
/// namespace and name.
///
/// # Errors
/// The text for the caller if a part of it is not usable.
pub(super) fn order(
    request: &TapRequest,
    accounts: impl Fn(&str, &str) -> Vec<String>,
) -> Result<TapOrder, String> {
    let filter = &request.filter;
    let id = &request.id;
    if id.len() != 32 || !id.chars().all(|digit| digit.is_ascii_hexdigit()) {
        return Err("id is not 32 hexadecimal digits; make one by chance".to_owned());
    }
    name("namespace", &request.namespace)?;
    if let Some(workload) = &request.workload {
        name("workload", workload)?;
    }
    range(
        "perSecond",
        request.per_second.into(),
        MAX_PER_SECOND.into(),
    )?;
    range("seconds", request.seconds, MAX_SECONDS)?;
    let (status_from, status_to) = match &filter.status {
        Some(status) => statuses(status)?,
        None => (0, 0),
    };
    let from = filter.from.as_deref();
    Ok(TapOrder {
        sides: filter.sides.unwrap_or(Sides::Server).into(),
        from: from.map(|from| caller(from, accounts)).transpose()?,
        method: method(filter.method.as_deref().unwrap_or_default())?,
        path_prefix: path(filter.path_prefix.as_deref().unwrap_or_default())?,
        status_from,
        status_to,
        min_duration_ms: filter.min_duration_ms.unwrap_or_default(),
        headers: headers(&request.headers)?,
        query: request.query,
        per_second: request.per_second,
        ..TapOrder::default()
    })
}

fn name(field: &str, text: &str) -> Result<(), String> {
    let of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    match !text.is_empty() && text.len() <= MAX_NAME && text.chars().all(of_name) {
        true => Ok(()),
        false => Err(format!("{field} {text:?} is not a name of Kubernetes")),
    }
}

fn range(field: &str, value: u64, most: u64) -> Result<(), String> {
    match (1..=most).contains(&value) {
        true => Ok(()),
        false => Err(format!("{field} {value} is not from 1 to {most}")),
    }
}

fn statuses(text: &str) -> Result<(u32, u32), String> {
    let range = match text.strip_suffix("xx") {
        Some(class) => class
            .parse()
            .ok()
            .map(|class: u32| (class * 100, class * 100 + 99)),
        None => text.parse().ok().map(|status| (status, status)),
    };
    range
        .filter(|(from, _)| text.len() == 3 && (100..600).contains(from))
        .ok_or_else(|| {
            format!("status {text:?} is not a status; use one such as 503, or a class such as 5xx")
        })
}

fn caller(text: &str, accounts: impl Fn(&str, &str) -> Vec<String>) -> Result<TapCaller, String> {
    if text == OUTSIDE {
        return Ok(TapCaller {
            outside: true,
            ..TapCaller::default()
        });
    }
    let (namespace, workload) = match text.split_once('/') {
        Some((namespace, workload)) => (namespace, Some(workload)),
        None => (text, None),
    };
    name("from", namespace)?;
    let accounts = match workload {
        Some(workload) => {
            name("from", workload)?;
            let mut known = accounts(namespace, workload);
            known.push(workload.to_owned());
            known
        }
        None => Vec::new(),
    };
    Ok(TapCaller {
        outside: false,
        namespace: namespace.to_owned(),
        accounts,
    })
}

fn method(text: &str) -> Result<String, String> {
    let of_token = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    match text.len() <= MAX_METHOD && text.chars().all(of_token) {
        true => Ok(text.to_ascii_uppercase()),
        false => Err(format!("method {text:?} is not a method of HTTP")),
    }
}

fn path(text: &str) -> Result<String, String> {
    if text.is_empty() || (text.starts_with('/') && text.chars().count() <= MAX_PATH) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "path {text:?} is not the beginning of a path; begin with /, and use up to {MAX_PATH} characters"
    ))
}

fn headers(asked: &[String]) -> Result<Vec<String>, String> {
    if asked.len() > MAX_HEADERS {
        return Err(format!(
            "more than {MAX_HEADERS} headers are asked for; ask for fewer"
        ));
    }
    let all = asked.iter().map(|header| {
        let header = header.to_ascii_lowercase();
        if is_secret_name(&header) {
            return Err(format!(
                "header {header:?} carries credentials, and is never shown; leave it out"
            ));
        }
        let mut known = HEADERS.iter().chain(&BUILT_IN_HEADERS);
        match known.any(|known| *known == header) {
            true => Ok(header),
            false => {
                let known = [&HEADERS[..], &BUILT_IN_HEADERS].concat().join(", ");
                Err(format!(
                    "header {header:?} is not one that sidecars report; use one of {known}"
                ))
            }
        }
    });
    all.collect()
}

#[cfg(test)]
pub(super) mod tests {
    use heddle_xds_types::tap::TapFilter;

    use super::*;

    pub(in super::super) fn request(namespace: &str, workload: Option<&str>) -> TapRequest {
        TapRequest {
            id: "0123456789abcdef0123456789abcdef".to_owned(),
            namespace: namespace.to_owned(),
            workload: workload.map(str::to_owned),
            filter: TapFilter::default(),
            headers: Vec::new(),
            query: false,
            per_second: 10,
            seconds: 60,
            end: false,
        }
    }

    fn with(change: impl FnOnce(&mut TapRequest)) -> Result<TapOrder, String> {
        let mut request = request("shop", None);
        change(&mut request);
        order(&request, |_, _| vec!["sa-of-cart".to_owned()])
    }

    #[test]
    fn a_filter_becomes_an_order() {
        let order = with(|request| {
            request.filter = TapFilter {
                sides: Some(Sides::Both),
                from: Some("shop/cart".to_owned()),
                method: Some("get".to_owned()),
                path_prefix: Some("/api".to_owned()),
                status: Some("5xx".to_owned()),
                min_duration_ms: Some(7),
            };
            request.headers = vec!["User-Agent".to_owned()];
        });
        let order = order.unwrap();
        assert_eq!((order.status_from, order.status_to), (500, 599));
        assert_eq!(order.from.unwrap().accounts, ["sa-of-cart", "cart"]);
        assert_eq!((&*order.method, &*order.path_prefix), ("GET", "/api"));
        assert_eq!(order.headers, ["user-agent"]);
        let order = with(|request| request.filter.status = Some("503".to_owned())).unwrap();
        assert_eq!((order.status_from, order.status_to), (503, 503));
        assert_eq!((order.sides, order.from), (Sides::Server.into(), None));
        let order = with(|request| request.filter.from = Some("outside".to_owned()));
        assert!(order.unwrap().from.unwrap().outside);
    }

    #[test]
    fn a_part_that_is_not_usable_is_refused_by_name() {
        type Change = fn(&mut TapRequest);
        let cases: [(&str, Change); 14] = [
            ("id", |request| request.id = "1".to_owned()),
            ("namespace", |request| request.namespace = String::new()),
            ("workload", |request| {
                request.workload = Some("a/b".to_owned())
            }),
            ("perSecond", |request| request.per_second = 0),
            ("perSecond", |request| request.per_second = 101),
            ("seconds", |request| request.seconds = 3601),
            ("status", |request| {
                request.filter.status = Some("9xx".to_owned())
            }),
            ("status", |request| {
                request.filter.status = Some("50".to_owned())
            }),
            ("from", |request| {
                request.filter.from = Some("a/b/c".to_owned())
            }),
            ("method", |request| {
                request.filter.method = Some("G T".to_owned())
            }),
            ("path", |request| {
                request.filter.path_prefix = Some("api".to_owned())
            }),
            ("carries credentials", |request| {
                request.headers = vec!["Authorization".to_owned()]
            }),
            ("is not one that sidecars report", |request| {
                request.headers = vec!["x-own".to_owned()]
            }),
            ("headers", |request| {
                request.headers = vec!["accept".to_owned(); 13]
            }),
        ];
        for (text, change) in cases {
            let error = with(change).unwrap_err();
            assert!(error.contains(text), "{text}: {error}");
        }
    }
}
