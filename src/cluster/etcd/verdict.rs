//! What an error of etcd's means for what was asked: the one place that decides whether it may have been done. Pure.

use super::types::EtcdError;

/// What to do about an answer that is an error.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was not done because of the token: a new one, and again.
    LogInAgain,
    /// Pass it on.
    Is(EtcdError),
}

// https://grpc.github.io/grpc/core/md_doc_statuscodes.html
const INVALID_ARGUMENT: u32 = 3;
const NOT_FOUND: u32 = 5;
const ALREADY_EXISTS: u32 = 6;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const FAILED_PRECONDITION: u32 = 9;
const OUT_OF_RANGE: u32 = 11;
const UNIMPLEMENTED: u32 = 12;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

/// By gRPC's code and etcd's words (`etcd/etcdserver/api/v3rpc/rpctypes/error.go`).
#[must_use]
pub fn verdict(code: u32, words: &str) -> Verdict {
    let says = |part: &str| words.contains(part);
    // An old token, one of a member that has been restarted since, or none where one is wanted.
    let by_token = code == UNAUTHENTICATED
        || says("invalid auth token")
        || says("revision of auth store is old")
        || says("user name is empty");
    if by_token {
        return Verdict::LogInAgain;
    }
    Verdict::Is(match code {
        OUT_OF_RANGE if says("compacted") => EtcdError::Compacted { oldest: 0 },
        INVALID_ARGUMENT | NOT_FOUND | ALREADY_EXISTS | PERMISSION_DENIED | RESOURCE_EXHAUSTED
        | FAILED_PRECONDITION | OUT_OF_RANGE | UNIMPLEMENTED => EtcdError::Refused(words.to_owned()),
        // Said before anything is proposed, since we demand a leader with every request.
        UNAVAILABLE if says("no leader") => EtcdError::Unreachable(words.to_owned()),
        // A proposal that has lost its leader or its time may still be carried out.
        _ => EtcdError::Unknown(words.to_owned()),
    })
}

/// As [`verdict`], of an end of a watch that comes as words alone.
#[must_use]
pub fn watch_over(words: &str) -> Verdict {
    let code = if words.contains("permission denied") || words.contains("PermissionDenied") {
        PERMISSION_DENIED
    } else {
        UNAVAILABLE
    };
    match verdict(code, words) {
        Verdict::Is(EtcdError::Unknown(words)) => Verdict::Is(EtcdError::Unreachable(words)),
        verdict => verdict,
    }
}
