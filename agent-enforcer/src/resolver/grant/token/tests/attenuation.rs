//! What a token with a parent may say.

use super::*;

fn child(change: impl FnOnce(&mut Value)) -> Value {
    changed(|claims| {
        claims["parent_jti"] = json!("parent");
        change(claims);
    })
}

#[test]
fn a_child_stays_within_its_parent() {
    let mut stage = Stage::new();
    stage.world.parents.insert("parent".into(), parent());
    let entry = |tool: &str, actions: &[&str]| json!({ "type": "network_egress", "tools": [tool], "actions": actions });
    let with =
        |entries: Vec<Value>| child(|claims| claims["authorization_details"] = json!(entries));
    for (token, expected) in [
        (child(|_| ()), None),
        (child(|claims| claims["exp"] = json!(NOW + 700)), None),
        (child(|claims| claims["exp"] = json!(NOW + 701)), Some(ExceededLimit::Expiry)),
        (child(|claims| claims["sub"] = json!("eve@example.com")), Some(ExceededLimit::Principal)),
        (child(|claims| claims["max_uses"] = json!(1)), None),
        (child(|claims| claims["instance"] = json!("i-5")), None),
        (with(vec![entry("mail", &["connect"])]), Some(ExceededLimit::Scope)),
        (with(vec![entry("code-host", &["connect", "listen"])]), Some(ExceededLimit::Scope)),
        (
            with(vec![entry("code-host", &["connect"]), entry("mail", &["connect"])]),
            Some(ExceededLimit::Scope),
        ),
        (with(vec![locations(&["198.51.100.7:443/tcp"])]), None),
        (with(vec![locations(&["192.0.2.25:25-100/tcp"])]), None),
        (with(vec![locations(&["192.0.2.25:30/tcp"])]), None),
        (with(vec![locations(&["192.0.2.25:25-101/tcp"])]), Some(ExceededLimit::Scope)),
        (with(vec![locations(&["192.0.2.25"])]), Some(ExceededLimit::Scope)),
        (with(vec![locations(&["[2001:db8::25]:25"])]), Some(ExceededLimit::Scope)),
    ] {
        let outcome = stage.judge(&token);
        let exceeded = match &outcome {
            Ok(_) => None,
            Err(TokenRefusal::ExceedsParent(limit)) => Some(*limit),
            Err(other) => panic!("{token}: {other}"),
        };
        assert_eq!(exceeded, expected, "{token}");
    }
    let mut other = parent();
    other.agent = "idle".into();
    stage.world.parents.insert("parent".into(), other);
    assert_eq!(stage.judge(&child(|_| ())), Err(TokenRefusal::ExceedsParent(ExceededLimit::Agent)));
}

#[test]
fn a_child_begins_with_its_parent_and_takes_of_its_uses_and_instance() {
    let mut stage = Stage::new();
    let mut judge = |change: &dyn Fn(&mut ParentGrant), token: &Value| {
        let mut parent = parent();
        change(&mut parent);
        stage.world.parents.insert("parent".into(), parent);
        stage.judge(token)
    };
    let uses = |uses: u32| child(|claims| claims["max_uses"] = json!(uses));
    let later = judge(&|parent| parent.not_before = moment(NOW + 40), &child(|_| ())).unwrap();
    assert_eq!(later.not_before, moment(NOW + 40));
    for (left, token, expected) in [
        (Some(3), uses(3), "ok"),
        (Some(3), uses(4), "token_exceeds_parent"),
        (Some(3), child(|_| ()), "token_exceeds_parent"),
        (Some(0), uses(1), "token_exceeds_parent"),
        (None, uses(9), "ok"),
    ] {
        let outcome = judge(&|parent| parent.uses_left = left, &token);
        assert_eq!(word(&outcome), expected, "{left:?} {token}");
    }
    let here = |parent: &mut ParentGrant| parent.instance = Some(InstanceId::new(5));
    let instance = |id: &str| child(|claims| claims["instance"] = json!(id));
    for (token, expected) in [
        (instance("i-5"), "ok"),
        (instance("i-6"), "token_exceeds_parent"),
        (child(|_| ()), "token_exceeds_parent"),
    ] {
        assert_eq!(word(&judge(&here, &token)), expected, "{token}");
    }
    let revoked = judge(&|parent| parent.is_live = false, &child(|_| ()));
    assert_eq!(word(&revoked), "token_parent_not_live");
    let over = judge(&|parent| parent.expires = moment(NOW), &child(|_| ()));
    assert_eq!(word(&over), "token_parent_not_live");
}

#[test]
fn an_issuer_that_must_attenuate_issues_nothing_of_its_own() {
    let mut stage = Stage::new();
    stage.world.parents.insert("parent".into(), parent());
    let mut issuer = issuer("https://issuer.example", &stage.key);
    issuer.must_attenuate = true;
    stage.issuers = Issuers::new(vec![issuer]).unwrap();
    assert_eq!(word(&stage.judge(&claims())), "token_must_attenuate");
    assert_eq!(word(&stage.judge(&child(|_| ()))), "ok");
}
