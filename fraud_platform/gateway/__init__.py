"""The gateway before the decision service: nginx's configuration, which colour gets payments, the rules behind them.

What belongs here: rendering, starting, switching. What does not: what nginx does with a request; that stands in
`deploy/gateway/nginx.conf.template`.
"""
