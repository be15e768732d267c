//! From a webhook as written to one that questions can be posted to.
//!
//! In: the section of a decoded file. Out: a [`Webhook`], or what is wrong with it. Nothing is
//! resolved, opened or called here.

use std::{path::PathBuf, time::Duration};

use reqwest::Url;

use super::{
    Approvals, Webhook,
    agent_check::{bounded, optional},
    directory::Source,
    document::WebhookEntry,
    error::{PolicyError, Problem},
    network::decimal,
    place::quote,
    tool_check::Report,
};

/// How long the service may take for one request where nothing is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);
const LONGEST_TIMEOUT: Duration = Duration::from_mins(1);
/// How often a request is made again where nothing is said.
const DEFAULT_RETRIES: u32 = 3;
const MOST_RETRIES: u32 = 10;
/// Longest URL, bytes.
const URL_LIMIT: usize = 2048;

/// One webhook; `None` where its URL can't be used.
pub(super) fn webhook(entry: &WebhookEntry, report: &mut Report<'_>) -> Option<Webhook> {
    let WebhookEntry { url: written, ca, timeout, retries } = entry;
    let bounds = ((SHORTEST_TIMEOUT, "1s"), (LONGEST_TIMEOUT, "1m"));
    let timeout = optional(
        timeout.as_ref(),
        DEFAULT_TIMEOUT,
        |text| bounded("timeout", text, bounds.0, bounds.1),
        report,
    );
    let retries = optional(retries.as_ref(), DEFAULT_RETRIES, parse_retries, report);
    let ca = optional(ca.as_ref(), None, |text| parse_ca(text).map(Some), report);
    match parse_url(&written.value) {
        Ok(url) => Some(Webhook { url, ca, timeout, retries }),
        Err(remedy) => {
            let value = quote(&written.value);
            report.add(written.referenced, Problem::BadWebhook { key: "url", value, remedy });
            None
        }
    }
}

fn parse_url(text: &str) -> Result<Url, &'static str> {
    const FORM: &str = "write it like https://approvals.example.org/questions";
    let url = Url::parse(text).map_err(|_not_a_url| FORM)?;
    if url.scheme() != "https" || url.host().is_none() || text.len() > URL_LIMIT {
        return Err(FORM);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("leave user and password out: answers are signed");
    }
    if url.fragment().is_some() {
        return Err("leave the part from `#` on out: it is never sent");
    }
    Ok(url)
}

fn parse_ca(text: &str) -> Result<PathBuf, Problem> {
    let path = PathBuf::from(text);
    let remedy = "write the absolute path of a PEM file";
    let refused = || Problem::BadWebhook { key: "ca", value: quote(text), remedy };
    path.is_absolute().then_some(path).ok_or_else(refused)
}

fn parse_retries(text: &str) -> Result<u32, Problem> {
    let retries = decimal::<u32>(text).filter(|retries| *retries <= MOST_RETRIES);
    let remedy = "write a number from 0 to 10";
    retries.ok_or_else(|| Problem::BadWebhook { key: "retries", value: quote(text), remedy })
}

/// Refuses a webhook whose answers nobody could sign.
pub(super) fn refuse_unanswerable(
    sources: &[Source],
    approvals: &Approvals,
    errors: &mut Vec<PolicyError>,
) {
    if approvals.webhook.is_none() || approvals.approvers.iter().any(|one| one.key.is_some()) {
        return;
    }
    for source in sources {
        let section = source.document.approvals.as_ref();
        if let Some(webhook) = section.and_then(|section| section.webhook.as_ref()) {
            let mut report = Report { file: &source.file, errors };
            report.add(webhook.url.referenced, Problem::NobodySigns);
        }
    }
}
