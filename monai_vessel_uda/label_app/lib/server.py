"""MONAI Label's web application, closed to other web pages and with its error messages in the answers.

MONAI Label 0.8.5 answers whatever page a browser on this machine shows: any web site could read the images. Its setting
for that, MONAI_LABEL_CORS_ORIGINS, stops the server from starting. Without its CORS middleware browsers refuse.
"""

from fastapi import Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from monailabel.app import app
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException

app.user_middleware = [middleware for middleware in app.user_middleware if middleware.cls is not CORSMiddleware]


@app.exception_handler(MONAILabelException)
async def explain(request: Request, error: MONAILabelException) -> JSONResponse:
    """What was wrong, where MONAI Label says no more than that something was."""
    status = 400 if error.error == MONAILabelError.INVALID_INPUT else 500
    return JSONResponse({"detail": error.msg}, status_code=status)
