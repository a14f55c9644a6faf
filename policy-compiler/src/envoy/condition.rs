//! What RBAC's matchers cannot ask: conditions on all lines of a header together.
//!
//! Envoy holds a header matcher against each line alone and is content with any, which is too wide for an Allow rule. CEL sees the lines joined
//! by commas.

use envoy_types::pb::google::api::expr::v1alpha1::{Constant, Expr, constant, expr};

use crate::authz::header::{self, Joined};
use crate::authz::{Rule, RuleAction};

/// The condition of an Allow rule: each header that it demands has one line. `None` if it demands no header's value.
pub(crate) fn of(rule: &Rule) -> Option<Expr> {
    if rule.action == RuleAction::Deny {
        return None;
    }
    let mut ids = Ids(0);
    let headers = rule.to.headers.iter();
    let one = |ids: &mut Ids, name: &str, joined: Joined<'_>| match joined {
        Joined::Is(text) => {
            let args = vec![ids.header(name), ids.text(text)];
            ids.call(None, "_==_", args)
        }
        Joined::HasNoComma => {
            let (target, comma) = (ids.header(name), ids.text(","));
            let has = ids.call(Some(target), "contains", vec![comma]);
            ids.call(None, "!_", vec![has])
        }
    };
    let all = headers.filter_map(|header| Some((&header.name, header::joined(&header.value)?)));
    all.fold(None, |before, (name, joined)| {
        let next = one(&mut ids, name, joined);
        Some(match before {
            Some(before) => ids.call(None, "_&&_", vec![before, next]),
            None => next,
        })
    })
}

/// The ids of the nodes of one expression.
struct Ids(i64);

impl Ids {
    const fn node(&mut self, kind: expr::ExprKind) -> Expr {
        self.0 += 1;
        Expr {
            id: self.0,
            expr_kind: Some(kind),
        }
    }

    fn call(&mut self, target: Option<Expr>, function: &str, args: Vec<Expr>) -> Expr {
        let call = expr::Call {
            target: target.map(Box::new),
            function: function.to_owned(),
            args,
        };
        self.node(expr::ExprKind::CallExpr(Box::new(call)))
    }

    fn text(&mut self, text: &str) -> Expr {
        let constant = Constant {
            constant_kind: Some(constant::ConstantKind::StringValue(text.to_owned())),
        };
        self.node(expr::ExprKind::ConstExpr(constant))
    }

    /// `request.headers[name]`
    fn header(&mut self, name: &str) -> Expr {
        let request = self.node(expr::ExprKind::IdentExpr(expr::Ident {
            name: "request".to_owned(),
        }));
        let headers = self.node(expr::ExprKind::SelectExpr(Box::new(expr::Select {
            operand: Some(Box::new(request)),
            field: "headers".to_owned(),
            test_only: false,
        })));
        let name = self.text(name);
        self.call(None, "_[_]", vec![headers, name])
    }
}
