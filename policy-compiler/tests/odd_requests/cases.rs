//! Requests and answers that real clients and servers send, and that proxies have changed or refused.

/// A request, and the answer of the application.
pub struct Case {
    pub name: &'static str,
    pub request: Vec<u8>,
    pub answer: Vec<u8>,
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn case(name: &'static str, request: &str, answer: &str) -> Case {
    Case {
        name,
        request: request.as_bytes().to_vec(),
        answer: answer.as_bytes().to_vec(),
    }
}

/// A request with this first line and these headers, and a plain answer.
fn asked(name: &'static str, line: &str, headers: &str) -> Case {
    let request = format!("{line}\r\nHost: api\r\n{headers}\r\n");
    case(name, &request, OK)
}

/// A plain request, and this answer.
fn answered(name: &'static str, answer: &str) -> Case {
    case(name, "GET / HTTP/1.1\r\nHost: api\r\n\r\n", answer)
}

/// A request with a body.
fn sent(name: &'static str, headers: &str, body: &str) -> Case {
    let request = format!("POST /in HTTP/1.1\r\nHost: api\r\n{headers}\r\n{body}");
    case(name, &request, OK)
}

pub fn all() -> Vec<Case> {
    let groups = [
        methods(),
        targets(),
        request_headers(),
        request_bodies(),
        statuses(),
        response_headers(),
        response_bodies(),
    ];
    groups.into_iter().flatten().collect()
}

/// First lines that a sidecar answers with 400; docs/traffic.md has the reasons.
pub const REFUSED: [&str; 5] = [
    "GET /a#b HTTP/1.1",
    "PURGEALL /x HTTP/1.1",
    "brew /pot HTTP/1.1",
    "M-SEARCH /x HTTP/1.1",
    "GET http:// HTTP/1.1",
];

fn methods() -> Vec<Case> {
    let plain = [
        ("HEAD", "HEAD / HTTP/1.1"),
        ("OPTIONS", "OPTIONS /x HTTP/1.1"),
        ("DELETE without body", "DELETE /x HTTP/1.1"),
        ("PROPFIND", "PROPFIND /dav HTTP/1.1"),
        ("REPORT", "REPORT /dav HTTP/1.1"),
        ("TRACE", "TRACE /x HTTP/1.1"),
    ];
    let mut cases: Vec<Case> = plain.map(|(name, line)| asked(name, line, "")).into();
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1234567\r\nx-head: yes\r\n\r\n";
    cases.push(case(
        "the length of an answer to HEAD",
        "HEAD / HTTP/1.1\r\nHost: api\r\n\r\n",
        head,
    ));
    cases.push(case(
        "GET with a body",
        "GET /search HTTP/1.1\r\nHost: api\r\nContent-Length: 4\r\n\r\n{\"a\"",
        OK,
    ));
    cases.push(case(
        "DELETE with a body",
        "DELETE /x HTTP/1.1\r\nHost: api\r\nContent-Length: 3\r\n\r\nabc",
        OK,
    ));
    cases.push(case(
        "HTTP/1.0 with Host",
        "GET /old HTTP/1.0\r\nHost: api\r\n\r\n",
        OK,
    ));
    cases.push(case(
        "HTTP/1.0 that keeps the connection",
        "GET /old HTTP/1.0\r\nHost: api\r\nConnection: keep-alive\r\n\r\n",
        OK,
    ));
    cases
}

fn targets() -> Vec<Case> {
    [
        ("double slashes", "/a//b///c"),
        ("dots", "/a/./b/../c"),
        ("an escaped slash", "/a%2Fb%2fc"),
        ("an escaped percent sign", "/100%25"),
        ("an escape that is none", "/a%zz"),
        ("escaped control characters", "/a%0d%0ab"),
        ("UTF-8 by escapes", "/%C3%BC"),
        ("parameters of segments", "/a;v=1/b;w=2"),
        ("an empty query", "/a?"),
        ("two question marks", "/a?b?c=d"),
        ("a repeated parameter", "/a?x=1&x=2&x="),
        ("brackets in the query", "/a?q[]=1&q[]={\"b\":1}"),
        ("a pipe, a caret and a backquote", "/a|b^c`d"),
        ("a long target", &*format!("/{}", "x".repeat(8000))),
    ]
    .map(|(name, target)| asked(name, &format!("GET {target} HTTP/1.1"), ""))
    .into()
}

fn request_headers() -> Vec<Case> {
    let get = "GET /h HTTP/1.1";
    let mut cases: Vec<Case> = [
        ("names as written", "X-CamelCase: a\r\nx-lower: b\r\nX-UPPER: c\r\n"),
        ("a repeated header", "X-Many: 1\r\nX-Many: 2\r\nX-Many: 3\r\n"),
        ("cookies in several lines", "Cookie: a=1\r\nCookie: b=2\r\n"),
        ("an empty value", "X-Empty:\r\nX-After: 1\r\n"),
        ("blanks within a value", "X-Blank: a  b\tc\r\n"),
        ("a comma within a value", "X-Comma: a, b,,c\r\n"),
        ("quotes and semicolons", "X-Quoted: \"a;b\\\"c\"; d=e\r\n"),
        ("UTF-8 in a value", "X-Utf8: f\u{fc}r\r\n"),
        ("a name with an underscore", "x_under_score: 1\r\n"),
        ("a name with dots", "x.y.z: 1\r\n"),
        ("Expect", "Expect: 200-ok\r\n"),
        ("a range", "Range: bytes=0-3\r\nIf-Range: \"e\"\r\n"),
        ("conditions", "If-None-Match: W/\"x\", *\r\nIf-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n"),
        ("authorization", "Authorization: Basic dTpw\r\nProxy-Authorization: Basic dTpw\r\n"),
        ("forwarded headers of an earlier proxy", "X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nVia: 1.1 x\r\n"),
        ("a request id of the caller", "X-Request-Id: mine\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=b\r\n"),
        ("headers of the method override", "X-HTTP-Method-Override: PUT\r\nX-Original-URL: /admin\r\n"),
        ("a foreign upgrade", "Connection: Upgrade\r\nUpgrade: irc/6.9\r\n"),
        ("an upgrade to HTTP/2", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"),
        ("compression", "Accept-Encoding: gzip, br;q=0.5, *;q=0\r\n"),
        ("gRPC-Web", "Content-Type: application/grpc-web+proto\r\nX-Grpc-Web: 1\r\n"),
    ]
    .map(|(name, headers)| asked(name, get, headers))
    .into();
    let many: String = (0..500).map(|n| format!("x-n-{n}: {n}\r\n")).collect();
    cases.push(asked("500 headers", get, &many));
    let large = format!("X-Large: {}\r\n", "y".repeat(50_000));
    cases.push(asked("a header of 50 kB", get, &large));
    cases
}

fn request_bodies() -> Vec<Case> {
    let chunked = "Transfer-Encoding: chunked\r\n";
    vec![
        sent("an empty body", "Content-Length: 0\r\n", ""),
        sent(
            "a chunked body",
            chunked,
            "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        ),
        sent(
            "chunks with extensions",
            chunked,
            "3;a=b\r\nabc\r\n0\r\n\r\n",
        ),
        sent("an empty chunked body", chunked, "0\r\n\r\n"),
        sent(
            "trailers of a request",
            "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n",
            "3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
        ),
        sent(
            "bytes that are not text",
            "Content-Length: 4\r\n",
            "\u{0}\u{1}\u{7f}\n",
        ),
        sent(
            "a form of several parts",
            "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 12\r\n",
            "--x\r\n\r\n--x--",
        ),
        sent("POST without length", "", ""),
    ]
}

fn statuses() -> Vec<Case> {
    let bare = |name, status: &str| {
        answered(
            name,
            &format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"),
        )
    };
    vec![
        bare("a phrase of its own", "200 Fine By Me"),
        answered("no content", "HTTP/1.1 204 No Content\r\n\r\n"),
        answered(
            "not modified",
            "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n",
        ),
        bare("a teapot", "418 I'm a teapot"),
        bare("a code that nobody registered", "299 Odd"),
        bare("a code above 599", "799 Beyond"),
        bare("an error of the server", "500 Broken"),
        bare("an unavailable server", "503 Later"),
        answered(
            "a redirect",
            "HTTP/1.1 302 Found\r\nlocation: http://elsewhere/x?y#z\r\ncontent-length: 0\r\n\r\n",
        ),
        answered(
            "early hints",
            "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ),
    ]
}

fn response_headers() -> Vec<Case> {
    let with = |name, headers: &str| {
        answered(
            name,
            &format!("HTTP/1.1 200 OK\r\n{headers}content-length: 2\r\n\r\nok"),
        )
    };
    let many: String = (0..300).map(|n| format!("X-N-{n}: {n}\r\n")).collect();
    vec![
        with(
            "names of an answer as written",
            "X-CamelCase: a\r\nETag: \"b\"\r\n",
        ),
        with(
            "cookies that are set",
            "Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2; HttpOnly\r\n",
        ),
        with(
            "Server, Date and Via",
            "Server: mine/1\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nVia: 1.1 y\r\n",
        ),
        with("an empty value in an answer", "X-Empty:\r\n"),
        with(
            "authentication",
            "WWW-Authenticate: Basic realm=\"a, b\", Digest x=y\r\n",
        ),
        with("Alt-Svc", "Alt-Svc: h3=\":443\"\r\n"),
        with("300 headers in an answer", &many),
        with(
            "a header of 50 kB in an answer",
            &format!("X-Large: {}\r\n", "y".repeat(50_000)),
        ),
    ]
}

fn response_bodies() -> Vec<Case> {
    let large = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}",
        1 << 20,
        "z".repeat(1 << 20)
    );
    vec![
        answered(
            "a chunked answer",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        answered(
            "trailers of an answer",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n",
        ),
        answered(
            "an answer that ends with the connection",
            "HTTP/1.1 200 OK\r\n\r\nto the end",
        ),
        answered(
            "an HTTP/1.0 answer",
            "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ),
        answered(
            "events of a server",
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n0\r\n\r\n",
        ),
        answered("a megabyte", &large),
    ]
}
