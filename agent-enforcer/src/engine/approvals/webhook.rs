//! Questions that are posted to the policy's webhook, and the signed answers that come back.
//!
//! In: an open question; an answer as text. Out: an [`Order`] for `crate::webhook`; an answer that may
//! be stored. A question has a nonce of its own, so that an answer to it counts for nothing else, and
//! a string that is cut when it closes: nobody goes on asking what nobody waits for.

use std::{convert::Infallible, sync::Arc, time::SystemTime};

use serde::Serialize;
use tokio::sync::oneshot;

use super::{Engine, Question};
use crate::{
    control::{AnswerSpec, ControlError, rfc3339},
    events::{DaemonEvent, WebhookFacts},
    resolver::{
        approval::{
            Answer, Inputs, QuestionId,
            signed::{AnswerRefusal, verify_answer},
        },
        grant::Moment,
    },
    signing::random,
    webhook::Order,
};

/// What makes a question the webhook's.
#[derive(Debug)]
pub(super) struct Posted {
    nonce: String,
    _open: oneshot::Sender<Infallible>,
}

/// A question as it is posted. Members are only ever added.
#[derive(Serialize)]
struct QuestionBody<'a> {
    /// `a-0123456789abcdef`.
    question: String,
    /// SHA-256 over `inputs` as they stand here, without spaces.
    digest: String,
    nonce: &'a str,
    /// What the answer's `aud` must name.
    audience: &'a str,
    destination: String,
    pid: u32,
    asked: String,
    deadline: String,
    inputs: &'a Inputs,
}

impl Engine {
    /// Posts a question that was opened just now, where there is a webhook.
    pub(super) fn post(&mut self, id: QuestionId) {
        let approvals = self.policy.approvals();
        let Some(webhook) = approvals.webhook.as_ref().map(Arc::clone) else { return };
        let wait = approvals.wait;
        let Some(question) = self.questions.get(id) else { return };
        let failed = |error: String| {
            let (question, url) = (id.to_string(), webhook.url.to_string());
            DaemonEvent::WebhookFailed(Box::new(WebhookFacts { question, url, error }))
        };
        let nonce = match random::<16>() {
            Ok(bytes) => format!("{:032x}", u128::from_be_bytes(bytes)),
            Err(error) => return self.tell(failed(error.to_string())),
        };
        let now = SystemTime::now();
        let body = self.question_body(id, question, &nonce, (now, now + wait));
        let (open, closed) = oneshot::channel();
        let order = Order { webhook: Arc::clone(&webhook), question: id.to_string(), body, closed };
        if self.webhook.try_send(order).is_err() {
            return self.tell(failed("too many questions wait to be posted".to_owned()));
        }
        if let Some(question) = self.questions.open.get_mut(&id) {
            question.posted = Some(Posted { nonce, _open: open });
        }
    }

    fn question_body(
        &self,
        id: QuestionId,
        question: &Question,
        nonce: &str,
        (asked, deadline): (SystemTime, SystemTime),
    ) -> Vec<u8> {
        let body = QuestionBody {
            question: id.to_string(),
            digest: question.digest.0.to_string(),
            nonce,
            audience: &self.audience,
            destination: self.destination_text(&question.destination),
            pid: question.process.pid,
            asked: rfc3339(asked),
            deadline: rfc3339(deadline),
            inputs: &question.inputs,
        };
        // Texts and numbers always can be.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// Checks a signed answer; what it comes to is to be stored, then comes back through
    /// [`Engine::on_answer`].
    pub(in crate::engine) fn check_signed_answer(
        &self,
        text: &str,
        now: &Moment,
    ) -> Result<Answer, ControlError> {
        let (approvals, keys) = (self.policy.approvals(), self.policy.trust().keys());
        let signed = verify_answer(text, &self.audience, now.wall, |kid| {
            approvals.approver_with(kid).and_then(|_approver| keys.get(kid.as_str()))
        });
        let signed =
            signed.map_err(|refusal: AnswerRefusal| ControlError::Invalid(refusal.to_string()))?;
        let spec = AnswerSpec {
            id: signed.question,
            digest: Some(signed.digest.to_string()),
            verdict: signed.verdict,
            whole_tool: signed.whole_tool,
            lifetime: signed.lifetime,
        };
        self.check_spec(&spec, now, |question| {
            let posted = question.posted.as_ref();
            if posted.is_none_or(|posted| posted.nonce != signed.nonce) {
                let problem = "the answer has another question's `nonce`; sign the one that was posted";
                return Err(ControlError::Invalid(problem.to_owned()));
            }
            let approver = approvals.approver_with(&signed.kid).ok_or_else(|| {
                ControlError::Invalid(format!("key {} is no approver's (any more)", signed.kid))
            })?;
            if let Some(uid) = approver.uid {
                self.refuse_own_user(uid, question)?;
            }
            tracing::info!(question = %spec.id, jti = signed.jti, kid = %signed.kid, "a signed answer");
            Ok(Arc::clone(&approver.name))
        })
    }
}
