//! Whatever a token says: no byte of it can be changed, and no child goes beyond its parent.

use proptest::strategy::ValueTree as _;

use super::*;

/// Entries that a random token may have; the fake host has their tools.
fn any_entry() -> impl Strategy<Value = Value> {
    let targets = prop::sample::select(vec![
        ("tools", "code-host"),
        ("tools", "mail"),
        ("locations", "198.51.100.0/24:443/tcp"),
        ("locations", "198.51.100.0/25:443"),
        ("locations", "198.51.100.7:443/tcp"),
        ("locations", "192.0.2.25:25-465/tcp"),
        ("locations", "192.0.2.25:25-100/tcp"),
        ("locations", "192.0.2.25:90-110"),
        ("locations", "[2001:db8::25]:25"),
    ]);
    let actions = prop::sample::select(vec![
        json!(["connect"]),
        json!(["listen"]),
        json!(["connect", "listen"]),
    ]);
    (targets, actions).prop_map(|((key, target), actions)| {
        json!({ "type": "network_egress", key: [target], "actions": actions })
    })
}

fn any_token(parent: Option<&'static str>) -> impl Strategy<Value = Value> {
    (
        prop::collection::vec(any_entry(), 1..4),
        (NOW - 50..NOW + 50, prop::option::of(NOW - 50..NOW + 50), NOW + 60..NOW + 300),
        prop::option::of(1..4_u32),
        prop::option::of(1..3_u64),
        prop::sample::select(vec!["ada@example.com", "bob@example.com"]),
    )
        .prop_map(move |(entries, (iat, nbf, exp), uses, instance, principal)| {
            changed(|claims| {
                claims["authorization_details"] = json!(entries);
                (claims["iat"], claims["exp"], claims["sub"]) =
                    (json!(iat), json!(exp), json!(principal));
                if let Some(nbf) = nbf {
                    claims["nbf"] = json!(nbf);
                }
                if let Some(uses) = uses {
                    claims["max_uses"] = json!(uses);
                }
                if let Some(instance) = instance {
                    claims["instance"] = json!(format!("i-{instance}"));
                }
                if let Some(parent) = parent {
                    claims["parent_jti"] = json!(parent);
                }
            })
        })
}

/// The grant of a token that was just issued.
fn grant_of(token: &VerifiedToken, used: u32) -> ParentGrant {
    let uses_left = token.max_uses.map(|uses| uses.saturating_sub(used));
    ParentGrant {
        principal: Arc::clone(&token.principal),
        agent: Arc::clone(&token.agent),
        instance: token.instance,
        scope: token.scope.clone(),
        not_before: token.not_before,
        expires: token.expires,
        uses_left,
        is_live: uses_left != Some(0),
    }
}

/// Whether a scope permits one call, told the long way: by looking at every part of it.
fn permits(scope: &Scope, tool: &str, at: &Location, wanted: Action) -> bool {
    let has = |actions: Actions| match wanted {
        Action::Connect => actions.connect,
        Action::Listen => actions.listen,
    };
    let by_tool = scope.tools.iter().any(|(name, actions)| &**name == tool && has(*actions));
    by_tool
        || scope.locations.iter().any(|part| {
            let ScopedLocation { location, tool: owner, actions } = part;
            let (Some(ports), Some(port)) = (at.ports, location.ports) else { return false };
            has(*actions)
                && **owner == *tool
                && location.network.contains(&at.network.addr())
                && (port.first..=port.last).contains(&ports.first)
                && location.protocol.is_none_or(|protocol| at.protocol == Some(protocol))
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_byte_of_a_token_can_be_changed(place in any::<prop::sample::Index>(), to in any::<char>(), es256 in any::<bool>()) {
        let stage = Stage::with_key(if es256 { p256("k1") } else { ed25519("k1") });
        let token = stage.sign(&claims());
        stage.verify(&token).unwrap();
        let place = place.index(token.len());
        prop_assume!(!token[place..].starts_with(to));
        let changed = format!("{}{to}{}", &token[..place], &token[place + 1..]);
        prop_assert!(stage.verify(&changed).is_err(), "{changed}");
    }

    #[test]
    fn a_child_that_passes_never_exceeds_its_parent(
        parent in any_token(None),
        child in any_token(Some("parent")),
        used in 0..3_u32,
    ) {
        let mut stage = Stage::new();
        let Ok(parent) = stage.judge(&parent) else { return Ok(()) };
        stage.world.parents.insert("parent".into(), grant_of(&parent, used));
        let Ok(child) = stage.judge(&child) else { return Ok(()) };
        prop_assert_eq!(&child.principal, &parent.principal);
        prop_assert_eq!(&child.agent, &parent.agent);
        prop_assert!(parent.instance.is_none() || child.instance == parent.instance);
        prop_assert!(child.not_before >= parent.not_before && child.expires <= parent.expires);
        if let Some(uses) = parent.max_uses {
            prop_assert!(child.max_uses.is_some_and(|own| own + used <= uses));
        }
        for (tool, at) in [
            ("code-host", "198.51.100.7:443/tcp"),
            ("code-host", "198.51.100.200:443/tcp"),
            ("mail", "192.0.2.25:25/tcp"),
            ("mail", "192.0.2.25:95/tcp"),
            ("mail", "192.0.2.25:105/tcp"),
            ("mail", "192.0.2.25:465/tcp"),
            ("mail", "[2001:db8::25]:25/tcp"),
            ("mail", "[2001:db8::25]:26/tcp"),
        ] {
            for action in [Action::Connect, Action::Listen] {
                let at = at.parse().unwrap();
                let allowed = permits(&child.scope, tool, &at, action);
                prop_assert!(!allowed || permits(&parent.scope, tool, &at, action), "{tool} {at}");
            }
        }
    }

    #[test]
    fn every_text_ends_in_a_token_or_a_refusal(text in "[A-Za-z0-9_.=-]{0,80}", claims in ".{0,80}") {
        let stage = Stage::new();
        prop_assert!(stage.verify(&text).is_err());
        // Also what an issuer itself got wrong.
        let token = Compact::sign(claims.as_bytes(), &stage.key, TYPE).unwrap();
        prop_assert_eq!(word(&stage.verify(&token)), "token_malformed");
    }
}

#[test]
fn random_children_of_the_property_do_pass() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut stage = Stage::new();
    let mut passed = 0;
    for _ in 0..2000 {
        let [parent, child] = [None, Some("parent")]
            .map(|parent| any_token(parent).new_tree(&mut runner).unwrap().current());
        if let Ok(parent) = stage.judge(&parent) {
            stage.world.parents.insert("parent".into(), grant_of(&parent, 0));
            passed += u32::from(stage.judge(&child).is_ok());
        }
    }
    assert!(passed > 10, "{passed} of 2000");
}
