"""An aiosmtpd destination: appends each envelope to a file as one line of JSON."""

import json
import signal
import sys

from aiosmtpd.controller import Controller


class Handler:
    def __init__(self, path):
        self.path = path

    async def handle_DATA(self, server, session, envelope):
        record = {
            "sender": envelope.mail_from,
            "options": envelope.mail_options,
            "recipients": envelope.rcpt_tos,
            "content": envelope.original_content.decode("latin-1"),
        }
        with open(self.path, "a", encoding="utf-8") as out:
            out.write(json.dumps(record) + "\n")
        return "250 2.0.0 taken"


def main():
    host, port, mode, path = sys.argv[1:]
    controller = Controller(
        Handler(path), hostname=host, port=int(port), enable_SMTPUTF8=mode == "smtputf8"
    )
    controller.start()
    signal.pause()


main()
