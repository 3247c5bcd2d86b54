"""Asks llama.cpp, from the package xllamacpp, what it makes of a GGUF file; a program, so that it can crash alone.

python llama_cpp.py FILE < REQUESTS > ANSWERS

Both are JSON. REQUESTS: `texts` to read, special tokens included; `prompts` of token ids, to answer greedily with at
most `length` tokens; `messages`, to be put into the chat template. ANSWERS: `ids` of the texts, `answers` (ids), `chat`
(text).
"""

from __future__ import annotations

import json
import sys
import urllib.request


def main(file: str) -> None:
    import xllamacpp

    requests = json.load(sys.stdin)
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_gpu_layers = 0
    params.n_ctx = 512
    params.n_parallel = 1
    params.warmup = False
    params.cpuparams.n_threads = 2
    params.use_jinja = True
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    server = xllamacpp.Server(params)

    def ask(path: str, **content) -> dict:
        body = json.dumps(content).encode()
        request = urllib.request.Request(server.listening_address + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)

    ids = [ask("/tokenize", content=text, add_special=True, parse_special=True)["tokens"] for text in requests["texts"]]
    how = {"temperature": 0.0, "top_k": 1, "return_tokens": True, "cache_prompt": False}
    answers = [
        ask("/completion", prompt=prompt, n_predict=requests["length"], **how)["tokens"]
        for prompt in requests["prompts"]
    ]
    chat = ask("/apply-template", messages=requests["messages"])["prompt"] if requests["messages"] else None
    json.dump({"ids": ids, "answers": answers, "chat": chat}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
