//! The ways in which a destination can be sent mail: plain or TLS, DATA or BDAT, command by command or pipelined.

use serde::Serialize;

use crate::sink::profile::Profile;

/// What a destination offers, and so how its mail comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Transport {
    /// DATA, command by command.
    PlainData,
    /// DATA, pipelined.
    PlainPipelined,
    /// BDAT, pipelined.
    PlainBdat,
    /// DATA, command by command, over TLS.
    TlsData,
    /// DATA, pipelined, over TLS.
    TlsPipelined,
    /// BDAT, pipelined, over TLS.
    TlsBdat,
}

/// All of them, in the order of the table.
pub const ALL: [Transport; 6] = [
    Transport::PlainData,
    Transport::PlainPipelined,
    Transport::PlainBdat,
    Transport::TlsData,
    Transport::TlsPipelined,
    Transport::TlsBdat,
];

impl Transport {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Transport::PlainData => "data",
            Transport::PlainPipelined => "pipelined",
            Transport::PlainBdat => "bdat",
            Transport::TlsData => "tls data",
            Transport::TlsPipelined => "tls pipelined",
            Transport::TlsBdat => "tls bdat",
        }
    }

    /// The destination that brings it about.
    pub fn profile(self) -> Profile {
        Profile {
            tls: matches!(self, Transport::TlsData | Transport::TlsPipelined | Transport::TlsBdat),
            chunking: matches!(self, Transport::PlainBdat | Transport::TlsBdat),
            pipelining: !matches!(self, Transport::PlainData | Transport::TlsData),
            ..Profile::default()
        }
    }
}
