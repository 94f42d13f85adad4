"""Serve one base model and many adapters over the OpenAI wire format, on one machine, from one process.

    HTTP (app, wire, answers)  -->  engine: one thread that owns the model  -->  artifacts.switch.AdapterBank
      security, limits, metrics       waiting | slots of one batch | jobs          one base, many adapters

Requests for different adapters stand in one batch and leave it as they finish (`engine`); what cannot stand there (a prefix, a
classifier) runs beside it, step by step, on the same thread. Needs the extra `serve`.
"""
